// The handshake with the host and with other streams: a flag that one side stores and the other polls.
#include "Kernel.cuh"

/// One thread. A successor that starts early waits for this kernel's end, and so for all before it.
extern "C" __global__ void tandem_kernel_signal(const __grid_constant__ tandem_gpu_signal a) {
  launch_successors();
  wait_for_predecessors();
  // Whoever sees the flag, on the host too, sees what the kernels in front have written.
  __threadfence_system();
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(a.flag), "r"(a.value) : "memory");
  if (a.notice) {
    // Whoever sees the notice may write the flag himself.
    __threadfence_system();
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(a.notice), "r"(a.notice_value) : "memory");
  }
}

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

/// One thread. The polls begin while the kernels in front still run: the flag is none of theirs.
extern "C" __global__ void tandem_kernel_wait(const __grid_constant__ tandem_gpu_wait a) {
  launch_successors();
  const uint64_t start = nanoseconds();
  for (;;) {
    uint32_t seen;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(a.flag) : "memory");
    if (seen == a.value) break;
    if (nanoseconds() - start > a.timeout_nanoseconds) {
      asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(a.failure), "r"(1) : "memory");
      break;
    }
    __nanosleep(100);
  }
  wait_for_predecessors();
}
