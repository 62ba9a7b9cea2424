// What every kernel needs: types, the programmatic launch, reductions, the tensor cores' product.
#pragma once

#include <cuda_fp16.h>

#include "CUDAKernels.h"

template <typename T>
__device__ __forceinline__ T *as(tandem_device_pointer pointer) {
  return reinterpret_cast<T *>(pointer);
}

/// Waits until the kernels in front have finished and their results are seen.
__device__ __forceinline__ void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the kernel behind start as soon as there is room: what it reads before its own wait is ready.
__device__ __forceinline__ void launch_successors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, offset));
  return value;
}

/// The sum over a block of WARPS warps, the same in every thread. `shared` holds a value for each warp and is
/// used by one sum only.
template <int WARPS>
__device__ __forceinline__ float block_sum(float value, float *shared) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
  return sum;
}

constexpr float LOG2_E = 1.4426950408889634f;

/// 2^x.
__device__ __forceinline__ float exponential2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// `modeling_opt.py`'s activations: ReLU, and GELU in its exact form.
__device__ __forceinline__ float activate(float x, uint32_t activation) {
  if (activation == TANDEM_GPU_RELU) return fmaxf(x, 0.0f);
  if (activation == TANDEM_GPU_GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  return x;
}

/// d[16, 8] += a[16, 16] * b[16, 8], fp16 with fp32 sums. Lane l has, with g = l / 4 and t = l % 4:
/// a0: a[g][2t, 2t+1], a1: a[g + 8][..], a2: a[g][2t + 8, 2t + 9], a3: a[g + 8][..];
/// b0: b[2t, 2t+1][g], b1: b[2t + 8, 2t + 9][g]; d0, d1: d[g][2t, 2t+1], d2, d3: d[g + 8][..].
__device__ __forceinline__ void multiply_add_16x8x16(float d[4], const uint32_t a[4], uint32_t b0,
                                                     uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 16 bytes that are read once: around the L1 cache.
__device__ __forceinline__ uint4 load_once(const void *pointer) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(pointer));
  return value;
}

/// The same of 8 and of 4 bytes, where the condition holds; else the value stays as it is.
__device__ __forceinline__ void load_once_if(bool condition, uint2 &value, const void *pointer) {
  asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];}"
               : "+r"(value.x), "+r"(value.y)
               : "l"(pointer), "r"(uint32_t(condition)));
}
__device__ __forceinline__ void load_once_if(bool condition, uint32_t &value, const void *pointer) {
  asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; @p ld.global.nc.L1::no_allocate.u32 %0, [%1];}"
               : "+r"(value)
               : "l"(pointer), "r"(uint32_t(condition)));
}

/// word & mask | bits in one instruction: of two constants the compiler makes two.
__device__ __forceinline__ uint32_t mask_and_set(uint32_t word, uint32_t mask, uint32_t bits) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
  return result;
}

/// Eight halves.
__device__ __forceinline__ void to_floats(float to[8], const uint4 &from) {
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = __half22float2(reinterpret_cast<const __half2 &>(words[i]));
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

/// Asks for the first `count` of 16 bytes in shared memory, and for zeros behind them.
__device__ __forceinline__ void copy_or_clear(uint32_t to, const void *from, uint32_t count) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(count) : "memory");
}

/// Asks for 16 bytes in shared memory, or zeros.
__device__ __forceinline__ void copy_chunk(uint32_t to, const __half *from, bool is_inside) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :
               : "r"(to), "l"(from), "r"(is_inside ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until all but the last `LATER` groups of the thread's copies are there.
template <int LATER>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

/// Four 8x8 matrices of halves from shared memory into the operands of products (`ldmatrix`), a row of one at
/// each lane's address.
__device__ __forceinline__ void load_matrices(uint32_t d[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t d[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

/// A word that the host or another stream stores: what its writer wrote before is seen behind this.
__device__ __forceinline__ uint32_t load_acquire_system(tandem_device_pointer word) {
  uint32_t seen;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(word) : "memory");
  return seen;
}

/// How many of `count` items lie in front of the limit; all where there is none.
__device__ __forceinline__ uint32_t limited(const tandem_gpu_limit &limit, uint32_t count) {
  if (!limit.end) return count;
  const uint32_t end = __ldcg(as<const uint32_t>(limit.end));
  return end <= limit.first ? 0 : min(count, end - limit.first);
}

__device__ __forceinline__ void store_system(tandem_device_pointer word, uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
