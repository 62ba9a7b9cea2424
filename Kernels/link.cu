#include "Kernel.cuh"

// The exchange of activations with another lane, through mapped host memory that both sides poll.
//
// What counts is the latency: a write to the host takes about a microsecond to arrive, and so does each read,
// so every thread has all of its reads on their way at once, and `await` polls while the kernels in front
// still run.
//
// How to launch them: tandem_kernel_publish, _await and _join, as programmatic dependents. Grid: a
// block for some KiB. Block: LINK_THREADS. Dynamic shared memory: none.

#define LINK_THREADS 512

namespace link {

constexpr int THREADS = LINK_THREADS;
using half_bits = unsigned short;

/// Whether rows on both sides can be copied 16 bytes at a time.
__device__ __forceinline__ bool is_aligned(tandem_device_pointer from, tandem_device_pointer to,
                                           uint32_t stride, uint32_t columns) {
  return (from | to) % 16 == 0 && (stride | columns) % 8 == 0;
}

/// Around the L1 cache, which keeps what the host has written over since.
__device__ __forceinline__ uint4 load_mapped(const uint4 *pointer) {
  uint4 value;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(pointer)
               : "memory");
  return value;
}

__device__ __forceinline__ half_bits load_mapped(const half_bits *pointer) {
  half_bits value;
  asm volatile("ld.relaxed.sys.global.u16 %0, [%1];" : "=h"(value) : "l"(pointer) : "memory");
  return value;
}

/// The grid's share of to[r, c] = from[r, c], c < columns; sizes count `Word`s.
template <typename Word>
__device__ __forceinline__ void publish(const tandem_gpu_publish &a) {
  constexpr uint32_t HALVES = sizeof(Word) / sizeof(__half);
  const uint32_t columns = a.columns / HALVES, stride = a.stride / HALVES;
  const Word *from = as<const Word>(a.from);
  Word *to = as<Word>(a.to);
  for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < a.rows * columns; i += gridDim.x * THREADS)
    to[i] = from[size_t(i / columns) * stride + i % columns];
}

/// The other way, several reads of a thread at a time.
template <typename Word>
__device__ __forceinline__ void take(const tandem_gpu_await &a) {
  constexpr uint32_t HALVES = sizeof(Word) / sizeof(__half), TOGETHER = 4;
  const uint32_t columns = a.columns / HALVES, stride = a.stride / HALVES, count = a.rows * columns;
  const uint32_t step = gridDim.x * THREADS;
  const Word *from = as<const Word>(a.from);
  Word *to = as<Word>(a.to);
  for (uint32_t first = blockIdx.x * THREADS + threadIdx.x; first < count; first += TOGETHER * step) {
    Word words[TOGETHER];
#pragma unroll
    for (uint32_t k = 0; k < TOGETHER; k++)
      if (first + k * step < count) words[k] = load_mapped(from + first + k * step);
#pragma unroll
    for (uint32_t k = 0; k < TOGETHER; k++) {
      const uint32_t i = first + k * step;
      if (i < count) to[size_t(i / columns) * stride + i % columns] = words[k];
    }
  }
}

/// Whether the answer came. Reads of the other words lie between many polls of the one.
template <typename Exchange>
__device__ __forceinline__ bool poll(const Exchange &a) {
  constexpr uint32_t POLLS_BETWEEN_CHECKS = 16;
  const uint32_t step = __ldcg(as<const uint32_t>(a.step));
  const uint64_t start = nanoseconds();
  for (uint32_t polls = 1;; polls++) {
    if (load_acquire_system(a.word) == step) return true;
    if (polls % POLLS_BETWEEN_CHECKS != 0) continue;
    if (load_acquire_system(a.abort) != 0) return false;
    if (nanoseconds() - start > a.timeout_nanoseconds) {
      store_system(a.abort, TANDEM_GPU_WAITED_TOO_LONG);
      return false;
    }
  }
}

__device__ __forceinline__ float4 load_mapped(const float4 *pointer) {
  const uint4 bits = load_mapped(reinterpret_cast<const uint4 *>(pointer));
  return make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                     __uint_as_float(bits.w));
}

__device__ __forceinline__ float load_mapped(const float *pointer) {
  float value;
  asm volatile("ld.relaxed.sys.global.f32 %0, [%1];" : "=f"(value) : "l"(pointer) : "memory");
  return value;
}

__device__ __forceinline__ float add(float x, float y) { return x + y; }
__device__ __forceinline__ float4 add(const float4 &x, const float4 &y) {
  return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
}

/// The grid's share of to[r, c] (+)= from[r, c], c < columns; sizes count `Word`s. Several reads of a thread
/// at a time.
template <typename Word>
__device__ __forceinline__ void join(const tandem_gpu_join &a) {
  constexpr uint32_t FLOATS = sizeof(Word) / sizeof(float), TOGETHER = 4;
  const uint32_t columns = a.columns / FLOATS, stride = a.stride / FLOATS, count = a.rows * columns;
  const uint32_t step = gridDim.x * THREADS;
  const Word *from = as<const Word>(a.from);
  Word *to = as<Word>(a.to);
  for (uint32_t first = blockIdx.x * THREADS + threadIdx.x; first < count; first += TOGETHER * step) {
    Word words[TOGETHER];
#pragma unroll
    for (uint32_t k = 0; k < TOGETHER; k++)
      if (first + k * step < count) words[k] = load_mapped(from + first + k * step);
#pragma unroll
    for (uint32_t k = 0; k < TOGETHER; k++) {
      const uint32_t i = first + k * step;
      if (i >= count) continue;
      Word &element = to[size_t(i / columns) * stride + i % columns];
      element = a.adds ? add(element, words[k]) : words[k];
    }
  }
}

}  // namespace link

extern "C" __global__ void __launch_bounds__(LINK_THREADS)
    tandem_kernel_publish(const __grid_constant__ tandem_gpu_publish a) {
  // Its successor does not start early: where this and all kernels up to the next `join` did, and that one
  // polled behind them, an exchange took 44 us in place of 8 (H200).
  wait_for_predecessors();
  const uint32_t step = *as<const uint32_t>(a.step);
  if (link::is_aligned(a.from, a.to, a.stride, a.columns)) {
    link::publish<uint4>(a);
  } else {
    link::publish<link::half_bits>(a);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (gridDim.x > 1) {
    // The last block speaks for all.
    uint32_t *counter = as<uint32_t>(a.counter);
    __threadfence_system();
    if (atomicAdd(counter, 1) != gridDim.x - 1) return;
    *counter = 0;
    __threadfence_system();
  }
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(a.word), "r"(step) : "memory");
}

/// That this step's answer is there means that its `publish` has run, and all before it: `to` is nobody's
/// then.
extern "C" __global__ void __launch_bounds__(LINK_THREADS)
    tandem_kernel_await(const __grid_constant__ tandem_gpu_await a) {
  __shared__ bool has_arrived;
  launch_successors();
  if (threadIdx.x == 0) has_arrived = link::poll(a);
  __syncthreads();
  if (has_arrived) {
    if (link::is_aligned(a.from, a.to, a.stride, a.columns)) {
      link::take<uint4>(a);
    } else {
      link::take<link::half_bits>(a);
    }
  }
  wait_for_predecessors();
}

/// The kernels in front write `to` as well, so nothing is added before they have ended.
extern "C" __global__ void __launch_bounds__(LINK_THREADS)
    tandem_kernel_join(const __grid_constant__ tandem_gpu_join a) {
  __shared__ bool has_arrived;
  launch_successors();
  if (threadIdx.x == 0) has_arrived = link::poll(a);
  __syncthreads();
  wait_for_predecessors();
  if (!has_arrived) return;
  if ((a.from | a.to) % 16 == 0 && (a.stride | a.columns) % 4 == 0) {
    link::join<float4>(a);
  } else {
    link::join<float>(a);
  }
}
