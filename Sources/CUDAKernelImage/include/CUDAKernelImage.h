#ifndef TANDEM_CUDA_KERNEL_IMAGE_H
#define TANDEM_CUDA_KERNEL_IMAGE_H

#include "CUDAKernels.h"

/// `tandem_cuda_images`, of which there are `tandem_cuda_image_count`: Swift does not import an array without
/// a size.
const tandem_cuda_image *tandem_first_cuda_image(void);

#endif
