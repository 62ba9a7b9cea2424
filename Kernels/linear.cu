#include "FewRows.cuh"

// y[r, o] = activation(bias[o] + sum over i of x[r, i] * weights[o, i]) for few rows, bound by reading the
// weights.
//
// The tensor cores take 16 outputs x 16 inputs of weights and 8 rows at a time, so that 24 rows cost hardly
// more than one. The order of the inputs within a product is free as long as weights and x agree: lane (g, t)
// reads 16 bytes of the weights' rows g and g + 8 at input 8t, and of x's row g at the same place, and these
// serve as the operands of two products without any exchange.
//
// A block takes TILES tiles of 16 outputs at a time, for which x is read once, and its warps cut the inputs
// among them. Weights and activations of the next batch are always on their way while one is computed: read
// when they are needed, the activations alone would cost half of the speed. The warps' sums wait in shared
// memory until there is no more room for them, so that the warps need not keep step.
//
// Grid: min(ceil(outputs / 16), multiprocessors). Block: 768 for up to 8 rows, else 256. Dynamic shared
// memory: SUMS_BYTES.

namespace linear_kernel {

constexpr int OUTPUTS = 16;
constexpr int CHUNK = 32;  // inputs that a warp takes at a time
constexpr int SUMS_BYTES = 65536;

template <int TILES, int CHUNKS>
struct Batch {
  uint4 low[CHUNKS][TILES], high[CHUNKS][TILES];  // of the weights' rows g and g + 8
};

template <int ROW_TILES, int CHUNKS>
struct Activations {
  uint4 rows[CHUNKS][ROW_TILES];
};

template <int ROW_TILES, int WARPS, int TILES, int CHUNKS, bool NORMALIZES>
__device__ __forceinline__ void linear(const tandem_gpu_linear &a) {
  extern __shared__ float sums[];  // [group][warp][tile][row][output]
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t outputs = limited(a.limit, a.outputs);
  const uint32_t chunk_count = (a.inputs + CHUNK - 1) / CHUNK;
  const uint32_t first = chunk_count * warp / WARPS, last = chunk_count * (warp + 1) / WARPS;
  const uint32_t tile_count = (outputs + OUTPUTS - 1) / OUTPUTS;
  const uint32_t group_stride = gridDim.x * TILES;
  const __half *weights = as<const __half>(a.weights) + 8 * t;
  const __half *x = as<const __half>(a.x);
  uint32_t x_stride = a.x_stride;

  auto read_weights = [&](Batch<TILES, CHUNKS> &batch, uint32_t first_tile, uint32_t chunk) {
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      const uint32_t tile = first_tile + n * gridDim.x;
      // Outputs behind the last one read the last one's weights, and their sums are thrown away.
      const uint32_t low = min(tile * OUTPUTS + g, outputs - 1);
      const uint32_t high = min(tile * OUTPUTS + g + 8, outputs - 1);
#pragma unroll
      for (int c = 0; c < CHUNKS; c++) {
        const uint32_t input = (chunk + c) * CHUNK;
        batch.low[c][n] = batch.high[c][n] = make_uint4(0, 0, 0, 0);
        if (chunk + c < last && input + 8 * t < a.inputs && tile < tile_count) {
          batch.low[c][n] = load_once(weights + size_t(low) * a.inputs + input);
          batch.high[c][n] = load_once(weights + size_t(high) * a.inputs + input);
        }
      }
    }
  };
  auto read_activations = [&](Activations<ROW_TILES, CHUNKS> &activations, uint32_t chunk) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      const uint32_t input = (chunk + c) * CHUNK + 8 * t;
      const bool is_inside = chunk + c < last && input < a.inputs;
#pragma unroll
      for (int r = 0; r < ROW_TILES; r++) {
        activations.rows[c][r] = make_uint4(0, 0, 0, 0);
        if (is_inside && 8 * r + g < a.rows) {
          activations.rows[c][r] = *reinterpret_cast<const uint4 *>(x + size_t(8 * r + g) * x_stride + input);
        }
      }
    }
  };

  // Adds up what the warps have left of `group_count` groups from `first_tile` on and writes the results.
  const uint32_t group_size = WARPS * TILES * a.rows * OUTPUTS;
  const uint32_t most_groups = SUMS_BYTES / sizeof(float) / group_size;
  auto finish = [&](uint32_t first_tile, uint32_t group_count) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < group_count * TILES * a.rows * OUTPUTS; i += WARPS * 32) {
      const uint32_t within = i % (TILES * a.rows * OUTPUTS), group = i / (TILES * a.rows * OUTPUTS);
      const uint32_t n = within / (a.rows * OUTPUTS), row = within / OUTPUTS % a.rows;
      const uint32_t output = (first_tile + group * group_stride + n * gridDim.x) * OUTPUTS + i % OUTPUTS;
      if (output >= outputs) continue;
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        total += sums[group * group_size + w * TILES * a.rows * OUTPUTS + within];
      }
      few_rows::store(a, row, output, total);
    }
    __syncthreads();
  };

  // Where the walk through the block's tiles goes from one batch to the next.
  struct Place {
    uint32_t tile, chunk;
  };
  auto advance = [&](Place place) {
    return place.chunk + CHUNKS >= last ? Place{place.tile + group_stride, first}
                                        : Place{place.tile, place.chunk + CHUNKS};
  };

  Batch<TILES, CHUNKS> current, next;
  Activations<ROW_TILES, CHUNKS> now, then;
  Place place = {blockIdx.x, first}, next_place = advance(place);
  if (!a.is_resident) wait_for_predecessors();
  read_weights(current, place.tile, place.chunk);
  if (next_place.tile < tile_count) read_weights(next, next_place.tile, next_place.chunk);
  if (a.is_resident) wait_for_predecessors();
  if constexpr (NORMALIZES) {
    __half *normalized = reinterpret_cast<__half *>(sums + SUMS_BYTES / sizeof(float));
    x_stride = (a.inputs + 7) / 8 * 8;
    few_rows::normalize<WARPS>(a, normalized, x_stride);
    x = normalized;
  }
  read_activations(now, place.chunk);
  read_activations(then, next_place.chunk);

  uint32_t waiting_groups = 0, first_waiting = place.tile;
  float sum[TILES][ROW_TILES][4] = {};
  while (place.tile < tile_count) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
        const uint4 low = current.low[c][n], high = current.high[c][n];
        const uint32_t first_product[4] = {low.x, high.x, low.y, high.y};
        const uint32_t second_product[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
          const uint4 activations = now.rows[c][r];
          multiply_add_16x8x16(sum[n][r], first_product, activations.x, activations.y);
          multiply_add_16x8x16(sum[n][r], second_product, activations.z, activations.w);
        }
      }
    }
    current = next;
    now = then;
    const Place after_next = advance(next_place);
    if (after_next.tile < tile_count) {
      read_weights(next, after_next.tile, after_next.chunk);
      read_activations(then, after_next.chunk);
    }
    if (next_place.tile != place.tile) {
#pragma unroll
      for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
          const uint32_t row = 8 * r + 2 * t;
          float *at = sums + waiting_groups * group_size + ((warp * TILES + n) * a.rows + row) * OUTPUTS + g;
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
      waiting_groups++;
      if (waiting_groups == most_groups || next_place.tile >= tile_count) {
        finish(first_waiting, waiting_groups);
        waiting_groups = 0;
        first_waiting = next_place.tile;
      }
    }
    place = next_place;
    next_place = after_next;
  }
}

}  // namespace linear_kernel

#define LINEAR(name, row_tiles, warps, tiles, chunks, normalizes)                \
  extern "C" __global__ void __launch_bounds__(warps * 32)                       \
      tandem_kernel_linear_##name(const __grid_constant__ tandem_gpu_linear a) { \
    launch_successors();                                                         \
    linear_kernel::linear<row_tiles, warps, tiles, chunks, normalizes>(a);       \
  }

// One row at 4096 x 50272: 4.24 TB/s with 24 warps of one tile, 3.91 with 16 of two, 3.99 with 8 of four
// (H200).
LINEAR(1, 1, 24, 1, 2, false)
LINEAR(2, 2, 8, 4, 2, false)
LINEAR(3, 3, 8, 4, 2, false)
LINEAR(4, 4, 8, 2, 2, false)

// x is the layer norm of the residual stream, which every block computes for itself while its first weights
// are on their way. For one or two rows: a kernel between would take longer. Dynamic shared memory:
// SUMS_BYTES and two bytes for each input of a row, in multiples of 8 inputs.
LINEAR(normalized, 1, 24, 1, 2, true)

// Rows of the weights that do not begin at 16 bytes: one warp an output, plainly. Grid: ceil(outputs / 8).
// Block: 256.
extern "C" __global__ void tandem_kernel_linear_any(const __grid_constant__ tandem_gpu_linear a) {
  launch_successors();
  wait_for_predecessors();
  const uint32_t output = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (output >= limited(a.limit, a.outputs)) return;
  const __half *weights = as<const __half>(a.weights) + size_t(output) * a.inputs;
  for (uint32_t row = 0; row < a.rows; row++) {
    const __half *x = as<const __half>(a.x) + size_t(row) * a.x_stride;
    float sum = 0.0f;
    for (uint32_t i = lane; i < a.inputs; i += 32) sum += __half2float(weights[i]) * __half2float(x[i]);
    sum = warp_sum(sum);
    if (lane == 0) few_rows::store(a, row, output, sum);
  }
}
