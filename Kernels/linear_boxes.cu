#include "Ring.cuh"

// Products of up to 32 rows with weights that lie in GPU memory, bound by reading them: what `linear` and
// `linear_transposed` do, with the copy engine's boxes in place of the threads' own loads (9.0 and newer).
//
// A block takes OUTPUTS outputs and one of `split_count` parts of the inputs, in stages of 64 inputs. Eight
// warps multiply, each every eighth stage. A warp has shared memory for one stage, into which it has the
// weights and the rows' activations copied itself, as soon as it has used the ones before: one warp's wait is
// hidden behind the other fifteen of the multiprocessor, and no warp waits for another's. All warps sum the
// same outputs and add up at the end.
//
// The weights of the first stages are asked for before the kernels in front have ended: shared memory and
// registers leave room for two blocks a multiprocessor.
//
// Where the inputs are cut, each part's sums go to memory of their own, and the layer norm behind this kernel
// adds them to the residual stream: waiting for each other, in a cluster or by a counter, costs a third of
// the rate.
//
// Grid: (ceil(outputs / OUTPUTS), split_count). Block: TANDEM_GPU_BOXES_BLOCK. Dynamic shared memory:
// TANDEM_GPU_BOXES_SHARED_BYTES.

#if __CUDA_ARCH__ >= 900

namespace linear_boxes {

constexpr int DEPTH = 64;  // inputs of a stage: 128 bytes, the width of the swizzle
constexpr int WARPS = TANDEM_GPU_BOXES_BLOCK / 32;

/// Where 16 bytes of a row of 128 lie in a box that came in 128-byte swizzle.
__device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t chunk) {
  return row * 128 + ((chunk ^ (row & 7)) << 4);
}

__device__ __forceinline__ void load_two_matrices(uint32_t d[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(d[0]), "=r"(d[1])
               : "r"(address)
               : "memory");
}

template <int ROW_TILES, bool TRANSPOSED, int OUTPUTS>
__device__ __forceinline__ void multiply(const tandem_gpu_linear_boxes &a) {
  constexpr int TILES = OUTPUTS / 16, ROWS = ROW_TILES * 8;
  constexpr uint32_t WEIGHTS_BYTES = OUTPUTS * DEPTH * 2, STAGE_BYTES = WEIGHTS_BYTES + ROWS * DEPTH * 2;
  constexpr int STRIDE = OUTPUTS + 8;  // of a row's sums: no two lanes of a store in the same bank
  constexpr uint32_t SUMS_BYTES = WARPS * ROWS * STRIDE * 4;
  // The ring begins at a multiple of 1024, which the swizzle asks for.
  static_assert(STAGE_BYTES % 1024 == 0, "boxes begin at multiples of 1024");
  static_assert(WARPS * STAGE_BYTES + 1024 <= TANDEM_GPU_BOXES_SHARED_BYTES, "stages fit");
  static_assert(SUMS_BYTES + 1024 <= TANDEM_GPU_BOXES_SHARED_BYTES, "sums fit in place of the stages");
  extern __shared__ uint8_t memory[];
  __shared__ uint64_t barriers[WARPS];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t stages = (ring::shared_address(memory) + 1023) & ~1023u;
  const uint32_t depth = (a.inputs + DEPTH - 1) / DEPTH;
  const uint32_t first = depth * blockIdx.y / a.split_count, last = depth * (blockIdx.y + 1) / a.split_count;
  const uint32_t first_output = blockIdx.x * OUTPUTS;
  const uint32_t barrier = ring::shared_address(barriers + warp);
  const uint32_t weights = stages + warp * STAGE_BYTES, rows = weights + WEIGHTS_BYTES;
  const uint64_t policy = ring::evict_first();
  auto copy_weights = [&](uint32_t chunk) {
    const void *map = as<const void>(a.weights_map);
    ring::expect_bytes(barrier, STAGE_BYTES);
    if (TRANSPOSED) {
      ring::copy_box(weights, map, first_output, chunk * DEPTH, barrier, policy);
    } else {
      ring::copy_box(weights, map, chunk * DEPTH, first_output, barrier, policy);
    }
  };
  auto copy_rows = [&](uint32_t chunk) {
    ring::copy_box(rows, as<const void>(a.x_map), chunk * DEPTH, 0, barrier);
  };
  const bool has_chunk = first + warp < last;
  if (lane == 0) {
    ring::initialize_barrier(barrier, 1);
    ring::publish_barriers();
    if (has_chunk) copy_weights(first + warp);
    wait_for_predecessors();
    if (has_chunk) copy_rows(first + warp);
  }
  __syncwarp();

  float sum[TILES][ROW_TILES][4] = {};
  const uint32_t matrix = lane / 8, row = lane % 8;
  uint32_t parity = 0;
  for (uint32_t chunk = first + warp; chunk < last; chunk += WARPS) {
    ring::wait(barrier, parity);
    parity ^= 1;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
      uint32_t x[ROW_TILES][2];
#pragma unroll
      for (int r = 0; r + 1 < ROW_TILES; r += 2) {
        uint32_t four[4];
        load_matrices(four, rows + swizzled(8 * (r + matrix / 2) + row, 2 * k + matrix % 2));
        x[r][0] = four[0], x[r][1] = four[1], x[r + 1][0] = four[2], x[r + 1][1] = four[3];
      }
      if (ROW_TILES % 2 == 1) {
        load_two_matrices(x[ROW_TILES - 1], rows + swizzled(8 * (ROW_TILES - 1) + row, 2 * k + matrix % 2));
      }
#pragma unroll
      for (int n = 0; n < TILES; n++) {
        uint32_t w[4];
        if (TRANSPOSED) {
          load_matrices_transposed(w,
                                   weights + swizzled(16 * k + 8 * (matrix / 2) + row, 2 * n + matrix % 2));
        } else {
          load_matrices(w, weights + swizzled(16 * n + 8 * (matrix % 2) + row, 2 * k + matrix / 2));
        }
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) multiply_add_16x8x16(sum[n][r], w, x[r][0], x[r][1]);
      }
    }
    __syncwarp();
    if (lane == 0 && chunk + WARPS < last) {
      ring::release_to_copies();
      copy_weights(chunk + WARPS);
      copy_rows(chunk + WARPS);
    }
    __syncwarp();
  }

  // The warps' sums, [warp][row][output], in place of the stages, all of which have been used.
  __syncthreads();
  float *sums = reinterpret_cast<float *>(memory + (stages - ring::shared_address(memory)));
  const uint32_t g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < TILES; n++) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
      float *at = sums + (warp * ROWS + 8 * r + 2 * t) * STRIDE + 16 * n + g;
      at[0] = sum[n][r][0];
      at[STRIDE] = sum[n][r][1];
      at[8] = sum[n][r][2];
      at[STRIDE + 8] = sum[n][r][3];
    }
  }
  wait_for_predecessors();
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < a.rows * OUTPUTS; i += TANDEM_GPU_BOXES_BLOCK) {
    const uint32_t row = i / OUTPUTS, output = first_output + i % OUTPUTS;
    if (output >= a.outputs) continue;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) total += sums[(w * ROWS + row) * STRIDE + i % OUTPUTS];
    if (a.parts) {
      as<float>(a.parts)[(size_t(blockIdx.y) * a.rows + row) * a.outputs + output] = total;
      continue;
    }
    if (a.bias) total += as<const float>(a.bias)[output];
    total = activate(total, a.activation);
    const size_t element = size_t(row) * a.y_stride + output;
    if (a.y_is_float) {
      as<float>(a.y)[element] = total;
    } else {
      as<__half>(a.y)[element] = __float2half_rn(total);
    }
  }
}

}  // namespace linear_boxes

#define LINEAR_BOXES(name, row_tiles, transposed, outputs)                                   \
  extern "C" __global__ void __launch_bounds__(TANDEM_GPU_BOXES_BLOCK, 2)                    \
      tandem_kernel_linear_boxes_##name(const __grid_constant__ tandem_gpu_linear_boxes a) { \
    launch_successors();                                                                     \
    linear_boxes::multiply<row_tiles, transposed, outputs>(a);                               \
  }

LINEAR_BOXES(48_1, 1, false, 48)
LINEAR_BOXES(48_2, 2, false, 48)
LINEAR_BOXES(48_3, 3, false, 48)
LINEAR_BOXES(48_4, 4, false, 48)
LINEAR_BOXES(64_1, 1, false, 64)
LINEAR_BOXES(64_2, 2, false, 64)
LINEAR_BOXES(64_3, 3, false, 64)
LINEAR_BOXES(64_4, 4, false, 64)
LINEAR_BOXES(transposed_1, 1, true, 64)
LINEAR_BOXES(transposed_2, 2, true, 64)
LINEAR_BOXES(transposed_3, 3, true, 64)
LINEAR_BOXES(transposed_4, 4, true, 64)

#endif
