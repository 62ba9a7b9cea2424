#include "Kernel.cuh"

namespace layer_norm_kernel {

// A block normalizes a row, which it keeps in registers: MOST values a thread.
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int MOST = 48;

}  // namespace layer_norm_kernel

extern "C" __global__ void __launch_bounds__(layer_norm_kernel::THREADS)
    tandem_kernel_layer_norm(const __grid_constant__ tandem_gpu_layer_norm a) {
  using namespace layer_norm_kernel;
  __shared__ float shared[2][WARPS];
  launch_successors();
  const float *weight = as<const float>(a.weight);
  const float *bias = as<const float>(a.bias);
  wait_for_predecessors();
  const uint32_t source = a.row_indices ? as<const uint32_t>(a.row_indices)[blockIdx.x] : blockIdx.x;
  float *x = as<float>(a.x) + size_t(source) * a.hidden;
  __half *y = as<__half>(a.y) + size_t(blockIdx.x) * a.hidden;
  if (!a.normalize) {
    for (uint32_t i = threadIdx.x; i < a.hidden; i += THREADS) y[i] = __float2half_rn(x[i]);
    return;
  }
  float values[MOST];
  float sum = 0.0f;
#pragma unroll
  for (int n = 0; n < MOST; n++) {
    const uint32_t i = threadIdx.x + n * THREADS;
    values[n] = i < a.hidden ? x[i] : 0.0f;
    sum += values[n];
  }
  const float mean = block_sum<WARPS>(sum, shared[0]) / float(a.hidden);
  float squares = 0.0f;
#pragma unroll
  for (int n = 0; n < MOST; n++) {
    const float difference = threadIdx.x + n * THREADS < a.hidden ? values[n] - mean : 0.0f;
    squares += difference * difference;
  }
  const float scale = rsqrtf(block_sum<WARPS>(squares, shared[1]) / float(a.hidden) + a.epsilon);
#pragma unroll
  for (int n = 0; n < MOST; n++) {
    const uint32_t i = threadIdx.x + n * THREADS;
    if (i >= a.hidden) break;
    const float normalized =
        (values[n] - mean) * scale * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
    y[i] = __float2half_rn(normalized);
    if (a.keep) x[i] = normalized;
  }
}
