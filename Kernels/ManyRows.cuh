// What the products of many rows share: how sums become results.
#pragma once

#include "Kernel.cuh"

namespace many_rows {

__device__ __forceinline__ void add(float4 &sum, const float4 &more) {
  sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
}

/// Bias, activation or residual, and the result: 4 outputs of one row.
template <typename Arguments>
__device__ __forceinline__ void finish(const Arguments &a, float4 sum, uint32_t row, uint32_t output) {
  if (a.bias) add(sum, *reinterpret_cast<const float4 *>(as<const float>(a.bias) + output));
  if (a.residual) {
    float4 *residual = reinterpret_cast<float4 *>(as<float>(a.residual) + size_t(row) * a.outputs + output);
    add(sum, *residual);
    *residual = sum;
    return;
  }
  __half *y = as<__half>(a.y) + size_t(row) * a.y_stride + output;
  __half2 values[2] = {__floats2half2_rn(activate(sum.x, a.activation), activate(sum.y, a.activation)),
                       __floats2half2_rn(activate(sum.z, a.activation), activate(sum.w, a.activation))};
  *reinterpret_cast<uint2 *>(y) = *reinterpret_cast<uint2 *>(values);
}

}  // namespace many_rows
