// The speed of the memory itself: what a decode step's time is measured against.
#include "Kernel.cuh"

constexpr uint32_t read_block = 512;
/// 16-byte loads that a thread has in flight.
constexpr uint32_t read_depth = 8;

/// *digest += the sum of all 32-bit words, modulo 2^32: it does not depend on the grid. Blocks take tiles of
/// 64 KiB in turn. Bytes behind the last multiple of 16 are not read.
extern "C" __global__ void __launch_bounds__(read_block)
    tandem_kernel_read(const __grid_constant__ tandem_gpu_read a) {
  launch_successors();
  wait_for_predecessors();
  const uint4 *vectors = as<const uint4>(a.bytes);
  const uint64_t count = a.byte_count / sizeof(uint4);
  constexpr uint64_t tile = uint64_t(read_block) * read_depth;
  uint32_t sum = 0;
  for (uint64_t first = blockIdx.x * tile; first < count; first += gridDim.x * tile) {
    uint4 loaded[read_depth];
#pragma unroll
    for (uint32_t i = 0; i < read_depth; i++) {
      const uint64_t index = first + i * read_block + threadIdx.x;
      loaded[i] = index < count ? load_once(vectors + index) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (uint32_t i = 0; i < read_depth; i++) sum += loaded[i].x + loaded[i].y + loaded[i].z + loaded[i].w;
  }

  __shared__ uint32_t warp_sums[read_block / 32];
  sum = __reduce_add_sync(~0u, sum);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = __reduce_add_sync(~0u, threadIdx.x < read_block / 32 ? warp_sums[threadIdx.x] : 0);
    if (threadIdx.x == 0) atomicAdd(as<uint32_t>(a.digest), sum);
  }
}
