#include "CUDAKernelImage.h"

// Both images are made by `make kernels` and committed, so that a build needs no CUDA.

// Swift's compiler takes #embed in every version of C.
#pragma clang diagnostic ignored "-Wc23-extensions"

// The driver reads the ELF header where it lies.
_Alignas(64) static const unsigned char machine_code_90[] = {
#embed "kernels_90.cubin"
};

// The driver reads text up to a zero.
static const unsigned char portable_80[] = {
#embed "kernels_80.ptx" suffix(, 0)
};

const tandem_cuda_image tandem_cuda_images[] = {
    {machine_code_90, sizeof(machine_code_90), 90, 1},
    {portable_80, sizeof(portable_80) - 1, 80, 0},
};

const uint32_t tandem_cuda_image_count = sizeof(tandem_cuda_images) / sizeof(tandem_cuda_images[0]);

const tandem_cuda_image *tandem_first_cuda_image(void) { return tandem_cuda_images; }
