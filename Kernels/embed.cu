#include "Kernel.cuh"

extern "C" __global__ void tandem_kernel_embed(const __grid_constant__ tandem_gpu_embed a) {
  launch_successors();
  wait_for_predecessors();
  const tandem_gpu_row row = as<const tandem_gpu_row>(a.rows)[blockIdx.x];
  const __half *token = as<const __half>(row.token_row), *position = as<const __half>(row.position_row);
  float *residual = as<float>(a.residual) + size_t(blockIdx.x) * a.hidden;
  if (a.gathered) {
    __half *gathered = as<__half>(a.gathered) + size_t(blockIdx.x) * a.embedding;
    for (uint32_t i = threadIdx.x; i < a.embedding; i += blockDim.x) gathered[i] = token[i];
    for (uint32_t i = threadIdx.x; i < a.hidden; i += blockDim.x) residual[i] = __half2float(position[i]);
  } else {
    for (uint32_t i = threadIdx.x; i < a.hidden; i += blockDim.x) {
      residual[i] = __half2float(token[i]) + __half2float(position[i]);
    }
  }
}
