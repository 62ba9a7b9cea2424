#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "Kernels.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
// clang-format off: the operations are written over the vector
#include "Vector_AVX2.h"
#include "Operations/operations.inl"
// clang-format on
#pragma clang attribute pop

const tandem_cpu_kernels tandem_avx2_kernels = KERNEL_TABLE("AVX2", TANDEM_AVX2);

#endif
