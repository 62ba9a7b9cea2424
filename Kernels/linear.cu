#include "Kernel.cuh"

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

template <int ROW_TILES, int TILES, int CHUNKS>
struct Batch {
  uint4 low[CHUNKS][TILES], high[CHUNKS][TILES];  // of the weights' rows g and g + 8
};

template <int ROW_TILES, int CHUNKS>
struct Activations {
  uint4 rows[CHUNKS][ROW_TILES];
};

// A sum to its output: bias, activation, rounding.
__device__ __forceinline__ void store(const tandem_gpu_linear &a, uint32_t row, uint32_t output, float sum) {
  if (a.bias) sum += as<const float>(a.bias)[output];
  sum = activate(sum, a.activation);
  const size_t element = size_t(row) * a.y_stride + output;
  if (a.y_is_float) {
    as<float>(a.y)[element] = sum;
  } else {
    as<__half>(a.y)[element] = __float2half_rn(sum);
  }
}

template <int ROW_TILES, int WARPS, int TILES, int CHUNKS>
__device__ __forceinline__ void linear(const tandem_gpu_linear &a) {
  extern __shared__ float sums[];  // [group][warp][tile][row][output]
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t chunk_count = (a.inputs + CHUNK - 1) / CHUNK;
  const uint32_t first = chunk_count * warp / WARPS, last = chunk_count * (warp + 1) / WARPS;
  const uint32_t tile_count = (a.outputs + OUTPUTS - 1) / OUTPUTS;
  const uint32_t group_stride = gridDim.x * TILES;
  const __half *weights = as<const __half>(a.weights) + 8 * t;
  const __half *x = as<const __half>(a.x) + size_t(g) * a.x_stride + 8 * t;

  auto read_weights = [&](Batch<ROW_TILES, TILES, CHUNKS> &batch, uint32_t first_tile, uint32_t chunk) {
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      const uint32_t tile = first_tile + n * gridDim.x;
      // Outputs behind the last one read the last one's weights, and their sums are thrown away.
      const uint32_t low = min(tile * OUTPUTS + g, a.outputs - 1),
                     high = min(tile * OUTPUTS + g + 8, a.outputs - 1);
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
      const uint32_t input = (chunk + c) * CHUNK;
      const bool is_inside = chunk + c < last && input + 8 * t < a.inputs;
#pragma unroll
      for (int r = 0; r < ROW_TILES; r++) {
        activations.rows[c][r] = make_uint4(0, 0, 0, 0);
        if (is_inside && 8 * r + g < a.rows) {
          activations.rows[c][r] = *reinterpret_cast<const uint4 *>(x + size_t(8 * r) * a.x_stride + input);
        }
      }
    }
  };

  // Adds up what the warps have left of the groups before `behind` and writes the results.
  const uint32_t group_size = WARPS * TILES * a.rows * OUTPUTS;
  const uint32_t most_groups = SUMS_BYTES / sizeof(float) / group_size;
  auto finish = [&](uint32_t first_tile, uint32_t group_count) {
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < group_count * TILES * a.rows * OUTPUTS; i += WARPS * 32) {
      const uint32_t within = i % (TILES * a.rows * OUTPUTS), group = i / (TILES * a.rows * OUTPUTS);
      const uint32_t n = within / (a.rows * OUTPUTS), row = within / OUTPUTS % a.rows;
      const uint32_t output = (first_tile + group * group_stride + n * gridDim.x) * OUTPUTS + i % OUTPUTS;
      if (output >= a.outputs) continue;
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++)
        total += sums[group * group_size + w * TILES * a.rows * OUTPUTS + within];
      store(a, row, output, total);
    }
    __syncthreads();
  };

  Batch<ROW_TILES, TILES, CHUNKS> current, next;
  Activations<ROW_TILES, CHUNKS> now, then;
  uint32_t tile = blockIdx.x, chunk = first, waiting_groups = 0, first_waiting = tile;
  if (a.is_resident) read_weights(current, tile, first);
  wait_for_predecessors();
  if (!a.is_resident) read_weights(current, tile, first);
  read_activations(now, first);
  float sum[TILES][ROW_TILES][4] = {};
  while (tile < tile_count) {
    const bool ends_group = chunk + CHUNKS >= last;
    const uint32_t next_tile = ends_group ? tile + group_stride : tile,
                   next_chunk = ends_group ? first : chunk + CHUNKS;
    if (next_tile < tile_count) {
      read_weights(next, next_tile, next_chunk);
      read_activations(then, next_chunk);
    }
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
    if (ends_group) {
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
      if (waiting_groups == most_groups || next_tile >= tile_count) {
        finish(first_waiting, waiting_groups);
        waiting_groups = 0;
        first_waiting = next_tile;
      }
    }
    current = next;
    now = then;
    tile = next_tile;
    chunk = next_chunk;
  }
}

}  // namespace linear_kernel

#define LINEAR(row_tiles, warps, tiles, chunks)                                       \
  extern "C" __global__ void __launch_bounds__(warps * 32)                            \
      tandem_kernel_linear_##row_tiles(const __grid_constant__ tandem_gpu_linear a) { \
    launch_successors();                                                              \
    linear_kernel::linear<row_tiles, warps, tiles, chunks>(a);                        \
  }

// One row at 4096 x 50272: 4.24 TB/s with 24 warps of one tile, 3.91 with 16 of two, 3.99 with 8 of four
// (H200).
LINEAR(1, 24, 1, 2)
LINEAR(2, 8, 4, 2)
LINEAR(3, 8, 4, 2)
LINEAR(4, 8, 2, 2)

// Rows of the weights that do not begin at 16 bytes: one warp an output, plainly. Grid: ceil(outputs / 8).
// Block: 256.
extern "C" __global__ void tandem_kernel_linear_any(const __grid_constant__ tandem_gpu_linear a) {
  launch_successors();
  wait_for_predecessors();
  const uint32_t output = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (output >= a.outputs) return;
  const __half *weights = as<const __half>(a.weights) + size_t(output) * a.inputs;
  for (uint32_t row = 0; row < a.rows; row++) {
    const __half *x = as<const __half>(a.x) + size_t(row) * a.x_stride;
    float sum = 0.0f;
    for (uint32_t i = lane; i < a.inputs; i += 32) sum += __half2float(weights[i]) * __half2float(x[i]);
    sum = warp_sum(sum);
    if (lane == 0) linear_kernel::store(a, row, output, sum);
  }
}
