#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "Kernels.h"

#pragma clang attribute push(                                                               \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"))), \
    apply_to = function)
#define TANDEM_HAS_VNNI
// clang-format off: the operations are written over the vector
#include "Vector_AVX512.h"
#include "Operations/operations.inl"
// clang-format on
#pragma clang attribute pop

const tandem_cpu_kernels tandem_avx512_vnni_kernels = KERNEL_TABLE("AVX-512 VNNI", TANDEM_AVX512_VNNI);

#endif
