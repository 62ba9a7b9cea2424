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

// The row is read 16 bytes a thread at a time, all parts at once: one block a row has little else to hide the
// time of a load behind.
extern "C" __global__ void __launch_bounds__(1024)
    tandem_kernel_layer_norm_parts(const __grid_constant__ tandem_gpu_layer_norm_parts a) {
  constexpr int THREADS = 1024, WARPS = THREADS / 32, MOST = 3, TOGETHER = 4;
  __shared__ float shared[2][WARPS];
  launch_successors();
  const float4 zeros = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  const uint32_t quads = a.hidden / 4;
  auto quad = [&](tandem_device_pointer vector, uint32_t i, float otherwise) {
    return vector ? as<const float4>(vector)[i] : make_float4(otherwise, otherwise, otherwise, otherwise);
  };
  wait_for_predecessors();
  const uint32_t source = a.row_indices ? as<const uint32_t>(a.row_indices)[blockIdx.x] : blockIdx.x;
  float4 *x = as<float4>(a.x) + size_t(source) * quads;
  const float4 *parts = as<const float4>(a.parts) + size_t(source) * quads;
  const size_t part_stride = size_t(a.part_rows) * quads;
  float4 values[MOST];
  float sum = 0.0f;
#pragma unroll
  for (int n = 0; n < MOST; n++) {
    const uint32_t i = threadIdx.x + n * THREADS;
    values[n] = zeros;
    if (i >= quads) continue;
    float4 value = x[i];
    const float4 bias = quad(a.parts_bias, i, 0.0f);
    value.x += bias.x, value.y += bias.y, value.z += bias.z, value.w += bias.w;
    for (uint32_t first = 0; first < a.part_count; first += TOGETHER) {
      float4 part[TOGETHER];
#pragma unroll
      for (int p = 0; p < TOGETHER; p++) {
        part[p] = first + p < a.part_count ? __ldcg(parts + (first + p) * part_stride + i) : zeros;
      }
#pragma unroll
      for (int p = 0; p < TOGETHER; p++) {
        value.x += part[p].x, value.y += part[p].y, value.z += part[p].z, value.w += part[p].w;
      }
    }
    x[i] = values[n] = value;
    sum += value.x + value.y + value.z + value.w;
  }
  const float mean = block_sum<WARPS>(sum, shared[0]) / float(a.hidden);
  float squares = 0.0f;
#pragma unroll
  for (int n = 0; n < MOST; n++) {
    if (threadIdx.x + n * THREADS >= quads) continue;
    const float4 v = values[n];
    squares += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean) + (v.z - mean) * (v.z - mean) +
               (v.w - mean) * (v.w - mean);
  }
  const float scale = rsqrtf(block_sum<WARPS>(squares, shared[1]) / float(a.hidden) + a.epsilon);
  __half2 *y = as<__half2>(a.y) + size_t(blockIdx.x) * quads * 2;
#pragma unroll
  for (int n = 0; n < MOST; n++) {
    const uint32_t i = threadIdx.x + n * THREADS;
    if (i >= quads) continue;
    const float4 v = values[n], weight = quad(a.weight, i, 1.0f), bias = quad(a.bias, i, 0.0f);
    y[2 * i] =
        __floats2half2_rn((v.x - mean) * scale * weight.x + bias.x, (v.y - mean) * scale * weight.y + bias.y);
    y[2 * i + 1] =
        __floats2half2_rn((v.z - mean) * scale * weight.z + bias.z, (v.w - mean) * scale * weight.w + bias.w);
  }
}
