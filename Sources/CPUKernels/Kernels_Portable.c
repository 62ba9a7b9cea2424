#include <string.h>

#include "Kernels.h"
// clang-format off: the operations are written over the vector
#include "Vector_Portable.h"
#include "Operations/operations.inl"
// clang-format on

const tandem_cpu_kernels tandem_portable_kernels = KERNEL_TABLE("portable", TANDEM_PORTABLE);
