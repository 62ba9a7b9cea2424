#include "FewRows.cuh"

// residual[r, o] += bias[o] + sum over i of x[r, i] * weights[i, o] for few rows, bound by reading the
// weights.
//
// As `linear`, with the weights turned over: lane (g, t) reads 8 outputs, from 8g on, of the inputs 4t ... 4t
// + 3, and pairs the halves of neighbouring inputs. Outputs j and j + 4 of the eight serve as rows g and g +
// 8 of a product, so four products take 16 inputs x 64 outputs.
//
// A block takes 64 outputs and one of `split_count` parts of the inputs, which its warps cut among them. The
// last block to finish a tile of outputs adds the parts up, always in the same order.
//
// Grid: (ceil(outputs / 64), split_count). Block: 512 for up to 8 rows, else 256.

namespace linear_transposed_kernel {

constexpr int OUTPUTS = 64;
constexpr int CHUNK = 16;  // inputs that a warp takes at a time

// Weights and activations of a few chunks: those of the next are on their way while one is computed.
template <int ROW_TILES, int CHUNKS>
struct Batch {
  uint4 weights[CHUNKS][4];
  uint2 activations[CHUNKS][ROW_TILES];
};

// The halves at the same place of two inputs, as a pair.
__device__ __forceinline__ uint32_t pair_low(uint32_t first, uint32_t second) {
  return __byte_perm(first, second, 0x5410);
}
__device__ __forceinline__ uint32_t pair_high(uint32_t first, uint32_t second) {
  return __byte_perm(first, second, 0x7632);
}

__device__ __forceinline__ uint32_t word(const uint4 &v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

template <int ROW_TILES, int WARPS, int CHUNKS, bool IN_CLUSTER>
__device__ __forceinline__ void linear_transposed(const tandem_gpu_linear_transposed &a) {
  constexpr int THREADS = WARPS * 32;
  __shared__ float sums[WARPS * 8 * OUTPUTS];
  __shared__ float own[IN_CLUSTER ? 8 * OUTPUTS : 1];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t inputs = limited(a.limit, a.inputs);
  const uint32_t chunk_count = (inputs + CHUNK - 1) / CHUNK;
  // The warps take turns, so that the block reads its part of the inputs from front to back.
  constexpr uint32_t STRIDE = WARPS * CHUNKS;
  const uint32_t first = chunk_count * blockIdx.y / a.split_count + warp * CHUNKS;
  const uint32_t last = chunk_count * (blockIdx.y + 1) / a.split_count;
  const uint32_t column = blockIdx.x * OUTPUTS + 8 * g;
  const bool has_columns = column < a.outputs;
  const __half *weights = as<const __half>(a.weights) + column;
  const __half *x = as<const __half>(a.x) + size_t(g) * a.x_stride + 4 * t;

  using Batch = Batch<ROW_TILES, CHUNKS>;
  auto read_weights = [&](Batch &batch, uint32_t chunk) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const uint32_t input = (chunk + c) * CHUNK + 4 * t + i;
        batch.weights[c][i] = make_uint4(0, 0, 0, 0);
        if (chunk + c < last && input < inputs && has_columns) {
          batch.weights[c][i] = load_once(weights + size_t(input) * a.outputs);
        }
      }
    }
  };
  auto read_activations = [&](Batch &batch, uint32_t chunk) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      const uint32_t input = (chunk + c) * CHUNK;
      const bool is_inside = chunk + c < last && input + 4 * t < inputs;
#pragma unroll
      for (int r = 0; r < ROW_TILES; r++) {
        batch.activations[c][r] = make_uint2(0, 0);
        if (is_inside && 8 * r + g < a.rows) {
          batch.activations[c][r] = *reinterpret_cast<const uint2 *>(x + size_t(8 * r) * a.x_stride + input);
        }
      }
    }
  };

  Batch current, next;
  if (a.is_resident) read_weights(current, first);
  wait_for_predecessors();
  if (!a.is_resident) read_weights(current, first);
  read_activations(current, first);
  float sum[ROW_TILES][4][4] = {};
  for (uint32_t chunk = first; chunk < last; chunk += STRIDE) {
    if (chunk + STRIDE < last) {
      read_weights(next, chunk + STRIDE);
      read_activations(next, chunk + STRIDE);
    }
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      const uint4 *w = current.weights[c];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        // Output j of the eight stands in word j / 2, output j + 4 in word j / 2 + 2.
        const int low = j / 2, high = j / 2 + 2;
        uint32_t product[4];
        if (j % 2 == 0) {
          product[0] = pair_low(word(w[0], low), word(w[1], low));
          product[1] = pair_low(word(w[0], high), word(w[1], high));
          product[2] = pair_low(word(w[2], low), word(w[3], low));
          product[3] = pair_low(word(w[2], high), word(w[3], high));
        } else {
          product[0] = pair_high(word(w[0], low), word(w[1], low));
          product[1] = pair_high(word(w[0], high), word(w[1], high));
          product[2] = pair_high(word(w[2], low), word(w[3], low));
          product[3] = pair_high(word(w[2], high), word(w[3], high));
        }
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
          const uint2 activations = current.activations[c][r];
          multiply_add_16x8x16(sum[r][j], product, activations.x, activations.y);
        }
      }
    }
    current = next;
  }

  float *residual = as<float>(a.residual);
  float *partials = as<float>(a.partials);
  // The warps' sums, eight rows at a time, [warp][row][output].
#pragma unroll
  for (int r = 0; r < ROW_TILES; r++) {
    if (r > 0) __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float *at = sums + (warp * 8 + 2 * t) * OUTPUTS + 8 * g + j;
      at[0] = sum[r][j][0];
      at[OUTPUTS] = sum[r][j][1];
      at[4] = sum[r][j][2];
      at[OUTPUTS + 4] = sum[r][j][3];
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < 8 * OUTPUTS; i += THREADS) {
      const uint32_t row = 8 * r + i / OUTPUTS, output = blockIdx.x * OUTPUTS + i % OUTPUTS;
      if (row >= a.rows || output >= a.outputs) continue;
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) total += sums[w * 8 * OUTPUTS + i];
      const size_t element = size_t(row) * a.outputs + output;
      if (IN_CLUSTER) {
        own[i] = total;
      } else if (a.split_count == 1) {
        if (a.bias) total += as<const float>(a.bias)[output];
        residual[element] += total;
      } else {
        partials[size_t(blockIdx.y) * a.rows * a.outputs + element] = total;
      }
    }
  }
  if (IN_CLUSTER) {
    few_rows::join_cluster<OUTPUTS>(a, own);
    return;
  }
  if (a.split_count == 1) return;

  few_rows::join_partials<OUTPUTS>(a);
}

}  // namespace linear_transposed_kernel

#define LINEAR_TRANSPOSED(name, row_tiles, warps, chunks, in_cluster)                                  \
  extern "C" __global__ void __launch_bounds__(warps * 32)                                             \
      tandem_kernel_linear_transposed_##name(const __grid_constant__ tandem_gpu_linear_transposed a) { \
    launch_successors();                                                                               \
    linear_transposed_kernel::linear_transposed<row_tiles, warps, chunks, in_cluster>(a);              \
  }

LINEAR_TRANSPOSED(1, 1, 16, 2, false)
LINEAR_TRANSPOSED(2, 2, 8, 4, false)
LINEAR_TRANSPOSED(3, 3, 8, 4, false)
LINEAR_TRANSPOSED(4, 4, 8, 3, false)

// Up to 8 rows on GPUs with clusters (9.0): the blocks of a tile's parts, at most 8, are a cluster of (1,
// split_count), and add up through each other's shared memory instead of through partials and a counter.
LINEAR_TRANSPOSED(cluster, 1, 16, 2, true)

// Sizes that do not come in 16 bytes: a thread an output, plainly. Grid: (ceil(outputs / 256), rows). Block:
// 256.
extern "C" __global__ void tandem_kernel_linear_transposed_any(
    const __grid_constant__ tandem_gpu_linear_transposed a) {
  launch_successors();
  wait_for_predecessors();
  const uint32_t output = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (output >= a.outputs) return;
  const __half *weights = as<const __half>(a.weights) + output;
  const __half *x = as<const __half>(a.x) + size_t(row) * a.x_stride;
  float sum = a.bias ? as<const float>(a.bias)[output] : 0.0f;
  const uint32_t inputs = limited(a.limit, a.inputs);
  for (uint32_t i = 0; i < inputs; i++) {
    sum += __half2float(x[i]) * __half2float(weights[size_t(i) * a.outputs]);
  }
  as<float>(a.residual)[size_t(row) * a.outputs + output] += sum;
}
