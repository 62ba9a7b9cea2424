// What the products of few rows share: the layer norm of their input, and how sums become results.
#pragma once

#include "Kernel.cuh"

namespace few_rows {

// A sum to its output: bias, activation, rounding.
template <typename Arguments>
__device__ __forceinline__ void store(const Arguments &a, uint32_t row, uint32_t output, float sum) {
  if (a.bias) sum += as<const float>(a.bias)[output];
  sum = activate(sum, a.activation);
  const size_t element = size_t(row) * a.y_stride + output;
  if (a.y_is_float) {
    as<float>(a.y)[element] = sum;
  } else {
    as<__half>(a.y)[element] = __float2half_rn(sum);
  }
}

// The layer norm of the rows into shared memory, [row][stride], by the whole block.
template <int WARPS, typename Arguments>
__device__ __forceinline__ void normalize(const Arguments &a, __half *normalized, uint32_t stride) {
  constexpr int THREADS = WARPS * 32, MOST = 12288 / THREADS;
  __shared__ float partial[2][WARPS];
  const float *weight = as<const float>(a.norm_weight), *bias = as<const float>(a.norm_bias);
  for (uint32_t row = 0; row < a.rows; row++) {
    const float *x = as<const float>(a.residual) + size_t(row) * a.inputs;
    float values[MOST], sum = 0.0f;
#pragma unroll
    for (int n = 0; n < MOST; n++) {
      const uint32_t i = threadIdx.x + n * THREADS;
      values[n] = i < a.inputs ? __ldcg(x + i) : 0.0f;
      sum += values[n];
    }
    const float mean = block_sum<WARPS>(sum, partial[0]) / float(a.inputs);
    float squares = 0.0f;
#pragma unroll
    for (int n = 0; n < MOST; n++) {
      const float difference = threadIdx.x + n * THREADS < a.inputs ? values[n] - mean : 0.0f;
      squares += difference * difference;
    }
    const float scale = rsqrtf(block_sum<WARPS>(squares, partial[1]) / float(a.inputs) + a.epsilon);
#pragma unroll
    for (int n = 0; n < MOST; n++) {
      const uint32_t i = threadIdx.x + n * THREADS;
      if (i >= a.inputs) break;
      const float value = (values[n] - mean) * scale * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
      normalized[row * stride + i] = __float2half_rn(value);
    }
  }
  __syncthreads();
}

// Adds up the parts of the inputs, one in each block of the cluster, in order; each block some of the
// outputs.
template <uint32_t OUTPUTS, typename Arguments>
__device__ __forceinline__ void join_cluster(const Arguments &a, const float *own) {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
  const uint32_t address = uint32_t(__cvta_generic_to_shared(own));
  float *residual = as<float>(a.residual);
  const uint32_t count = a.rows * OUTPUTS;
  for (uint32_t i = threadIdx.x * a.split_count + blockIdx.y; i < count; i += blockDim.x * a.split_count) {
    const uint32_t row = i / OUTPUTS, output = blockIdx.x * OUTPUTS + i % OUTPUTS;
    if (output >= a.outputs) continue;
    float total = a.bias ? as<const float>(a.bias)[output] : 0.0f;
    for (uint32_t part = 0; part < a.split_count; part++) {
      uint32_t remote;
      float value;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address + 4 * i), "r"(part));
      asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(remote) : "memory");
      total += value;
    }
    residual[size_t(row) * a.outputs + output] += total;
  }
  // No block may end while another reads its shared memory.
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Where the parts of the inputs are in `partials`: the last block to finish a tile of outputs adds them up,
// in order.
template <uint32_t OUTPUTS, typename Arguments>
__device__ __forceinline__ void join_partials(const Arguments &a) {
  __shared__ bool is_last;
  const float *partials = as<const float>(a.partials);
  float *residual = as<float>(a.residual);
  __threadfence();
  __syncthreads();
  uint32_t *counter = as<uint32_t>(a.counters) + blockIdx.x;
  if (threadIdx.x == 0) is_last = atomicAdd(counter, 1) == a.split_count - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (uint32_t i = threadIdx.x; i < a.rows * OUTPUTS; i += blockDim.x) {
    const uint32_t row = i / OUTPUTS, output = blockIdx.x * OUTPUTS + i % OUTPUTS;
    if (output >= a.outputs) continue;
    const size_t element = size_t(row) * a.outputs + output;
    float total = a.bias ? as<const float>(a.bias)[output] : 0.0f;
    for (uint32_t split = 0; split < a.split_count; split++) {
      total += __ldcg(partials + size_t(split) * a.rows * a.outputs + element);
    }
    residual[element] += total;
  }
  if (threadIdx.x == 0) *counter = 0;
}

}  // namespace few_rows
