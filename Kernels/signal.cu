// The handshake with the host and with other streams: a flag that one side stores and the other polls.
#include "Kernel.cuh"

/// One thread. A successor that starts early waits for this kernel's end, and so for all before it.
extern "C" __global__ void tandem_kernel_signal(const __grid_constant__ tandem_gpu_signal a) {
  launch_successors();
  wait_for_predecessors();
  if (limited(a.limit, 1) == 0) return;
  // Whoever sees the flag, on the host too, sees what the kernels in front have written.
  __threadfence_system();
  store_system(a.flag, a.value);
  if (a.notice) {
    // Whoever sees the notice may write the flag himself.
    __threadfence_system();
    store_system(a.notice, a.notice_value);
  }
}

/// One thread. The polls begin while the kernels in front still run: the flag is none of theirs.
extern "C" __global__ void tandem_kernel_wait(const __grid_constant__ tandem_gpu_wait a) {
  launch_successors();
  const bool is_needed = limited(a.limit, 1) != 0;
  const uint64_t start = nanoseconds();
  while (is_needed) {
    if (load_acquire_system(a.flag) == a.value) break;
    if (nanoseconds() - start > a.timeout_nanoseconds) {
      store_system(a.failure, 1);
      break;
    }
    __nanosleep(100);
  }
  wait_for_predecessors();
}
