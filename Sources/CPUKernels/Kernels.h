#ifndef TANDEM_KERNELS_H
#define TANDEM_KERNELS_H

#include "include/CPUKernels.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("clang loop unroll(full)")

// A tile of one shape is a function of its own: merged into its callers it would share their registers.
#define TILE static __attribute__((noinline)) void

#define CACHE_LINE 64
#define HALVES_PER_LINE (CACHE_LINE / sizeof(tandem_half))

// Codes of a group of a cache in 4 bits, and positions whose weights are rounded together.
#define CACHE_CODES 64
#define CACHE_POSITIONS 64

INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
INLINE size_t larger(size_t a, size_t b) { return a > b ? a : b; }
INLINE size_t divided_up(size_t a, size_t b) { return (a + b - 1) / b; }

/// Asks for the line at `byte_offset` from a pointer. The address may lie outside the array, as a prefetch
/// cannot fault; the integer arithmetic keeps that defined.
INLINE void prefetch_l1(const void *pointer, size_t byte_offset) {
  __builtin_prefetch((const void *)((uintptr_t)pointer + byte_offset), 0, 3);
}
INLINE void prefetch_l2(const void *pointer, size_t byte_offset) {
  __builtin_prefetch((const void *)((uintptr_t)pointer + byte_offset), 0, 2);
}

extern const tandem_cpu_kernels tandem_portable_kernels;
#if defined(__x86_64__)
extern const tandem_cpu_kernels tandem_avx2_kernels;
extern const tandem_cpu_kernels tandem_avx512_kernels;
extern const tandem_cpu_kernels tandem_avx512_vnni_kernels;
#endif

#endif
