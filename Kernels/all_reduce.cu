// The sum of all ranks' parts of a block, straight through each other's memory.
#include "Kernel.cuh"

// One shot: every rank writes its part into the memory of all others, over NVLink, and adds up what has come
// to its own. A word goes with the number of its all-reduce in the other half of the same eight bytes, which
// arrive together: whoever waits for the number has the word, and neither a fence nor a second trip for a
// flag is needed.
//
// The numbers only grow. There are two places for each part, for even and odd numbers: a rank that writes
// number n + 2 has read all parts of n + 1, and whoever sent these had read all of n.
//
// Launch: as a programmatic dependent. Grid: a thread for two elements. Block: ALL_REDUCE_THREADS. Dynamic
// shared memory: none.

#define ALL_REDUCE_THREADS 256

namespace all_reduce {

__device__ __forceinline__ void send(tandem_device_pointer to, const float2 &value, uint32_t number) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(__float_as_uint(value.x)),
               "r"(number), "r"(__float_as_uint(value.y)), "r"(number)
               : "memory");
}

/// Both words of `from`, as soon as they are there; false where that takes too long.
__device__ __forceinline__ bool receive(tandem_device_pointer from, float2 &value, uint32_t number,
                                        uint64_t timeout_nanoseconds) {
  constexpr uint32_t LOOKS_BETWEEN_CHECKS = 1024;
  uint64_t start = 0;
  for (uint32_t looks = 1;; looks++) {
    uint4 words;
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                 : "l"(from)
                 : "memory");
    if (words.y == number && words.w == number) {
      value = make_float2(__uint_as_float(words.x), __uint_as_float(words.z));
      return true;
    }
    if (looks % LOOKS_BETWEEN_CHECKS != 0) continue;
    const uint64_t now = nanoseconds();
    if (start == 0) start = now;
    if (now - start > timeout_nanoseconds) return false;
  }
}

}  // namespace all_reduce

extern "C" __global__ void __launch_bounds__(ALL_REDUCE_THREADS)
    tandem_kernel_all_reduce(const __grid_constant__ tandem_gpu_all_reduce a) {
  launch_successors();
  wait_for_predecessors();
  const uint32_t i = 2 * (blockIdx.x * ALL_REDUCE_THREADS + threadIdx.x);
  if (i >= a.count) return;
  const uint32_t number = __ldcg(as<const uint32_t>(a.step)) * a.numbers_per_step + a.number + 1;
  const bool is_pair = i + 1 < a.count;
  // Where rank r's part of these two elements lies in everybody's memory: at `place` + r times the capacity.
  const uint64_t place = (uint64_t(number % 2) * a.rank_count * a.capacity + i) * 8;
  const uint64_t part = uint64_t(a.capacity) * 8;
  float *sum = as<float>(a.sum) + i;
  const float2 own = make_float2(sum[0], is_pair ? sum[1] : 0.0f);
  // Ranks begin with different peers, so that not all write to the same one.
  for (uint32_t n = 1; n < a.rank_count; n++) {
    const uint32_t peer = (a.rank + n) % a.rank_count;
    all_reduce::send(a.memory[peer] + place + a.rank * part, own, number);
  }
  if (a.clears) {
    sum[0] = 0.0f;
    if (is_pair) sum[1] = 0.0f;
  }
  // In the order of ranks, whichever this one is: all have the same bits.
  float2 total = make_float2(0.0f, 0.0f);
  for (uint32_t rank = 0; rank < a.rank_count; rank++) {
    float2 value = own;
    if (rank != a.rank &&
        !all_reduce::receive(a.memory[a.rank] + place + rank * part, value, number, a.timeout_nanoseconds)) {
      store_system(a.failure, 1);
      return;
    }
    total.x += value.x, total.y += value.y;
  }
  float *residual = as<float>(a.residual) + i;
  residual[0] = total.x;
  if (is_pair) residual[1] = total.y;
}
