#include "Kernels.h"

#if defined(__x86_64__)
static int has_avx512(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

// The compiler's check covers the operating system too: it reads XCR0, and reports AVX2 or AVX-512 only where
// the wide registers are saved on a context switch.
const tandem_cpu_kernels *tandem_cpu_kernels_for(tandem_instruction_set instruction_set) {
  switch (instruction_set) {
    case TANDEM_PORTABLE:
      return &tandem_portable_kernels;
#if defined(__x86_64__)
    case TANDEM_AVX2:
      __builtin_cpu_init();
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")
                 ? &tandem_avx2_kernels
                 : NULL;
    case TANDEM_AVX512:
      return has_avx512() ? &tandem_avx512_kernels : NULL;
    case TANDEM_AVX512_VNNI:
      return has_avx512() && __builtin_cpu_supports("avx512vnni") ? &tandem_avx512_vnni_kernels : NULL;
#endif
    default:
      return NULL;
  }
}
