#include "FewRows.cuh"
#include "Quantized.cuh"

// y[r, o] = activation(bias[o] + sum over i of x[r, i] * W[o, i]), or residual[r, o] += bias[o] + the sum,
// for few rows and weights in 4 or 8 bits, bound by reading them.
//
// As `linear`, with the weights expanded in registers: of a tile of 16 outputs x 64 inputs lane (g, t) reads
// twice 8 bytes, with 8 bits four times 8, where fp16 takes four times 16, and its outputs' scales and
// minimums. A batch is TILES tiles of one group, for which x is read once; a warp has DEPTH batches, and x
// for them, on their way. A block's warps take turns at the groups, and go on with the turns from one tile of
// outputs to the next, so that none has more to do than another.
//
// By outputs: tiles that are grid.x apart. Grid: min(outputs / 16, multiprocessors).
// By inputs: neighbouring tiles, which lie one behind the other, and one of `split_count` parts of the
// groups; the parts are added as in `linear_transposed`. Grid: (ceil(outputs / 64), split_count).
// Block: as below. Dynamic shared memory: SUMS_BYTES.

namespace linear_quantized_kernel {

using quantized::Group, quantized::Part;

constexpr int OUTPUTS = quantized::TILE_OUTPUTS;
constexpr int COLUMN = 64;  // outputs of a block, by inputs
constexpr int SUMS_BYTES = 65536;

template <int BITS, int ROW_TILES, int TILES>
struct Batch {
  Part<BITS> parts[TILES];
  uint4 rows[2][ROW_TILES];  // of x, at the inputs 8t ... 8t + 7 of each half; of rows behind the last zero
  bool ends_column;          // it is the warp's last one of these tiles
};

// The parts of a column's sums, [row][output], joined by the blocks that have them.
template <bool IN_CLUSTER>
__device__ __forceinline__ void add_to_residual(const tandem_gpu_linear_quantized &a, float *own, uint32_t i,
                                                float total) {
  const uint32_t row = i / COLUMN, output = blockIdx.x * COLUMN + i % COLUMN;
  const size_t element = size_t(row) * a.outputs + output;
  if (IN_CLUSTER) {
    own[i] = total;
  } else if (a.split_count == 1) {
    as<float>(a.residual)[element] += total + (a.bias ? as<const float>(a.bias)[output] : 0.0f);
  } else {
    as<float>(a.partials)[size_t(blockIdx.y) * a.rows * a.outputs + element] = total;
  }
}

template <int BITS, bool BY_INPUTS, int ROW_TILES, int WARPS, int TILES, int DEPTH, bool NORMALIZES,
          bool IN_CLUSTER>
__device__ __forceinline__ void linear_quantized(const tandem_gpu_linear_quantized &a) {
  static_assert(!BY_INPUTS || TILES * OUTPUTS == COLUMN, "a block has a column");
  extern __shared__ float sums[];  // [batch of tiles][warp][tile][row][output]
  __shared__ float own[IN_CLUSTER ? 8 * COLUMN : 1];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const quantized::Tiles<BITS> tiles(a, BY_INPUTS);
  const uint32_t tile_count = BY_INPUTS ? tiles.blocks : limited(a.limit, a.outputs) / OUTPUTS;
  const uint32_t tile_step = BY_INPUTS ? 1 : gridDim.x, column_step = gridDim.x * TILES;
  const uint32_t group_count = tiles.group_count(BY_INPUTS ? limited(a.limit, a.inputs) : a.inputs);
  const uint32_t first = BY_INPUTS ? group_count * blockIdx.y / a.split_count : 0;
  const uint32_t last = BY_INPUTS ? group_count * (blockIdx.y + 1) / a.split_count : group_count;
  const uint32_t turns_left = (last - first) % WARPS;
  const uint32_t most = min(quantized::GROUP_INPUTS, tiles.period);  // inputs of a group

  using Batch = Batch<BITS, ROW_TILES, TILES>;
  // Where the warp's reading is on its way through the block's tiles. Where there are fewer groups than warps
  // it has empty batches, as every warp must leave its sums of every tile.
  struct Reader {
    const unsigned char *at;  // the lane's place in the first tile
    uint32_t tile, index, turn;
    uint32_t input, count;  // of the group
  };
  const uint32_t lane_place = Part<BITS>::place(g, t);
  const uint32_t turn_inputs = WARPS * tiles.period;
  const size_t turn_bytes = size_t(BY_INPUTS ? tiles.blocks : 1) * (2 * BITS * turn_inputs + 64 * WARPS);
  auto locate = [&](Reader &reader) {
    Group group = {0, 0, 0};
    if (reader.index < last && reader.tile < tile_count) group = tiles.group(reader.index);
    reader.at = tiles.tile(reader.tile, group) + lane_place;
    reader.input = group.input;
    reader.count = group.count;
  };
  auto read_weights = [&](Batch &batch, const Reader &reader) {
    batch.ends_column = reader.index + WARPS >= last;
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      const size_t offset =
          n * (BY_INPUTS ? size_t(2 * BITS * reader.count + 64) : size_t(gridDim.x) * tiles.row_bytes);
      const bool is_inside = n == 0 || reader.tile + n * tile_step < tile_count;
      batch.parts[n].read(reader.at + offset, is_inside ? reader.count : 0, g, t);
    }
  };
  const __half *x = as<const __half>(a.x);
  uint32_t x_stride = a.x_stride;
  auto read_activations = [&](Batch &batch, const Reader &reader) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
      const uint4 *from =
          reinterpret_cast<const uint4 *>(x + size_t(8 * r + g) * x_stride + 8 * t + reader.input);
      const bool has_row = 8 * r + g < a.rows;
      if (has_row && 8 * t < reader.count) batch.rows[0][r] = from[0];
      if (8 * t + 32 >= reader.count) batch.rows[1][r] = make_uint4(0, 0, 0, 0);
      if (has_row && 8 * t + 32 < reader.count) batch.rows[1][r] = from[4];
    }
  };
  auto advance = [&](Reader &reader) {
    reader.index += WARPS;
    if (reader.index < last) {
      reader.at += turn_bytes;
      reader.input += turn_inputs;
      // Behind the block's last tile nothing is read.
      if (reader.count > 0) reader.count = min(most, a.inputs - reader.input);
      if (tiles.groups_per_period > 1) locate(reader);
    } else {
      reader.tile += column_step;
      reader.turn += reader.turn >= turns_left ? -turns_left : WARPS - turns_left;
      reader.index = first + reader.turn;
      locate(reader);
    }
  };

  // Adds up what the warps have left of `column_count` batches of tiles from `first_tile` on.
  const uint32_t tile_size = a.rows * OUTPUTS, column_size = WARPS * TILES * tile_size;
  const uint32_t most_columns = SUMS_BYTES / sizeof(float) / column_size;
  auto finish = [&](uint32_t first_tile, uint32_t column_count) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < column_count * TILES * tile_size; i += WARPS * 32) {
      const uint32_t column = i / (TILES * tile_size), within = i % (TILES * tile_size);
      const uint32_t n = within / tile_size, row = within % tile_size / OUTPUTS;
      const uint32_t tile = first_tile + column * column_step + n * tile_step;
      if (tile >= tile_count) continue;
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) total += sums[column * column_size + w * TILES * tile_size + within];
      if (BY_INPUTS) {
        add_to_residual<IN_CLUSTER>(a, own, row * COLUMN + n * OUTPUTS + i % OUTPUTS, total);
      } else {
        few_rows::store(a, row, tile * OUTPUTS + i % OUTPUTS, total);
      }
    }
    __syncthreads();
  };

  Batch batches[DEPTH] = {};
  Reader reader = {nullptr, BY_INPUTS ? blockIdx.x * TILES : blockIdx.x, first + warp, warp, 0, 0};
  uint32_t first_waiting = reader.tile;
  locate(reader);
  if (!a.is_resident) wait_for_predecessors();
  Reader readers[DEPTH];
#pragma unroll
  for (int d = 0; d < DEPTH; d++) {
    read_weights(batches[d], reader);
    readers[d] = reader;
    advance(reader);
  }
  if (a.is_resident) wait_for_predecessors();
  if constexpr (NORMALIZES) {
    __half *normalized = reinterpret_cast<__half *>(sums + SUMS_BYTES / sizeof(float));
    x_stride = a.inputs;
    few_rows::normalize<WARPS>(a, normalized, x_stride);
    x = normalized;
  }
#pragma unroll
  for (int d = 0; d < DEPTH; d++) read_activations(batches[d], readers[d]);

  uint32_t waiting_columns = 0;
  float sum[TILES][ROW_TILES][4] = {};
  while (first_waiting < tile_count) {
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      if (first_waiting >= tile_count) break;
      Batch &batch = batches[d];
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int n = 0; n < TILES; n++) {
          uint32_t first_product[4], second_product[4];
          quantized::expand(first_product, second_product, batch.parts[n], half);
#pragma unroll
          for (int r = 0; r < ROW_TILES; r++) {
            const uint4 activations = batch.rows[half][r];
            multiply_add_16x8x16(sum[n][r], first_product, activations.x, activations.y);
            multiply_add_16x8x16(sum[n][r], second_product, activations.z, activations.w);
          }
        }
      }
      const bool ends_column = batch.ends_column;
      read_weights(batch, reader);
      read_activations(batch, reader);
      advance(reader);
      if (ends_column) {
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
          for (int r = 0; r < ROW_TILES; r++) {
            const uint32_t row = 8 * r + 2 * t;
            float *at =
                sums + waiting_columns * column_size + ((warp * TILES + n) * a.rows + row) * OUTPUTS + g;
            if (row < a.rows) {
              at[0] = sum[n][r][0];
              at[8] = sum[n][r][2];
            }
            if (row + 1 < a.rows) {
              at[OUTPUTS] = sum[n][r][1];
              at[OUTPUTS + 8] = sum[n][r][3];
            }
            sum[n][r][0] = sum[n][r][1] = sum[n][r][2] = sum[n][r][3] = 0.0f;
          }
        }
        waiting_columns++;
        const uint32_t next_tile = first_waiting + waiting_columns * column_step;
        if (waiting_columns == most_columns || next_tile >= tile_count) {
          finish(first_waiting, waiting_columns);
          waiting_columns = 0;
          first_waiting = next_tile;
        }
      }
    }
  }
  if constexpr (IN_CLUSTER) {
    few_rows::join_cluster<COLUMN>(a, own);
  } else if constexpr (BY_INPUTS) {
    if (a.split_count > 1) few_rows::join_partials<COLUMN>(a);
  }
}

}  // namespace linear_quantized_kernel

#define LINEAR_QUANTIZED(name, bits, by_inputs, row_tiles, warps, tiles, depth, normalizes, in_cluster)    \
  extern "C" __global__ void __launch_bounds__(warps * 32)                                                 \
      tandem_kernel_linear_quantized_##name(const __grid_constant__ tandem_gpu_linear_quantized a) {       \
    launch_successors();                                                                                   \
    linear_quantized_kernel::linear_quantized<bits, by_inputs, row_tiles, warps, tiles, depth, normalizes, \
                                              in_cluster>(a);                                              \
  }

// By outputs 55 KB of 4 bits or 52 KB of 8 bits are on their way in a multiprocessor up to 8 rows, else 37
// or 70. Of 4 bits a tile of 576 bytes takes a warp about 112 instructions, of which 62 expand and multiply:
// an H100 has 160 to give in the time in which its memory brings one, so instructions matter here, too.
LINEAR_QUANTIZED(4_outputs_1, 4, false, 1, 24, 2, 2, false, false)
LINEAR_QUANTIZED(4_outputs_2, 4, false, 2, 8, 4, 2, false, false)
LINEAR_QUANTIZED(4_outputs_4, 4, false, 4, 8, 4, 2, false, false)
LINEAR_QUANTIZED(8_outputs_1, 8, false, 1, 24, 1, 2, false, false)
LINEAR_QUANTIZED(8_outputs_2, 8, false, 2, 8, 4, 2, false, false)
LINEAR_QUANTIZED(8_outputs_4, 8, false, 4, 8, 4, 1, false, false)

// x is the layer norm of the residual stream, as in `tandem_kernel_linear_normalized`, with two bytes of
// dynamic shared memory more for each input of a row.
LINEAR_QUANTIZED(4_outputs_normalized, 4, false, 1, 24, 2, 2, true, false)
LINEAR_QUANTIZED(8_outputs_normalized, 8, false, 1, 24, 1, 2, true, false)

LINEAR_QUANTIZED(4_inputs_1, 4, true, 1, 16, 4, 2, false, false)
LINEAR_QUANTIZED(4_inputs_2, 4, true, 2, 8, 4, 2, false, false)
LINEAR_QUANTIZED(4_inputs_4, 4, true, 4, 8, 4, 2, false, false)
LINEAR_QUANTIZED(8_inputs_1, 8, true, 1, 16, 4, 1, false, false)
LINEAR_QUANTIZED(8_inputs_2, 8, true, 2, 8, 4, 2, false, false)
LINEAR_QUANTIZED(8_inputs_4, 8, true, 4, 8, 4, 1, false, false)

#if __CUDA_ARCH__ >= 900
// Up to 8 rows on GPUs with clusters (9.0), as in `tandem_kernel_linear_transposed_cluster`.
LINEAR_QUANTIZED(4_inputs_cluster, 4, true, 1, 16, 4, 2, false, true)
LINEAR_QUANTIZED(8_inputs_cluster, 8, true, 1, 16, 4, 1, false, true)
#endif
