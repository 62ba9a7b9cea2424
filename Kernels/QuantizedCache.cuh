// Keys and values in 4 bits (docs/quantization.md, "The cache"): where they lie, how they are rounded, and
// how codes become halves again.
//
// A word of codes, 4 bytes, is what a lane has of a position: four elements that follow each other in the
// first half of a group, in the low halves of its bytes, and four in the second half, in the high ones.
#pragma once

#include "Quantized.cuh"

namespace quantized_cache {

constexpr uint32_t GROUP = 64;

/// A head's key or value of one position: codes, then scale and minimum of each group. A multiple of 4.
__host__ __device__ constexpr uint32_t position_bytes(uint32_t dimension) {
  return dimension / 2 + 4 * ((dimension + GROUP - 1) / GROUP);
}

/// The first of the four elements in the low halves of a word of codes, and of those in the high ones.
struct Place {
  uint32_t low, high;
};
__device__ __forceinline__ Place place(uint32_t word, uint32_t dimension) {
  const uint32_t group = word / 8 * GROUP, low = group + 4 * (word % 8);
  return {low, low + min(GROUP, dimension - group) / 2};
}

/// Which word of a position has the scale, in its low half, and the minimum of a word of codes.
__device__ __forceinline__ uint32_t scales_word(uint32_t word, uint32_t dimension) {
  return dimension / 8 + word / 8;
}

/// A word of codes, and its group's scale and minimum.
struct Rounded {
  uint32_t codes, scales;
};

/// The least and the greatest element of what lanes have of a group.
struct Range {
  float least, most;

  __device__ __forceinline__ explicit Range(const float x[8]) : least(x[0]), most(x[0]) { include(x); }
  __device__ __forceinline__ void include(const float x[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) least = fminf(least, x[i]), most = fmaxf(most, x[i]);
  }
  /// Of all lanes that differ by these distances alone; `lanes` are those that take part.
  template <int... DISTANCES>
  __device__ __forceinline__ void join(uint32_t lanes = ~0u) {
    ((least = fminf(least, __shfl_xor_sync(lanes, least, DISTANCES)),
      most = fmaxf(most, __shfl_xor_sync(lanes, most, DISTANCES))),
     ...);
  }
};

/// How the elements of a group are rounded. The CPU's `quantize_position` gives the same bytes.
struct Rounding {
  __half scale, minimum;

  __device__ __forceinline__ explicit Rounding(const Range &range) : minimum(__float2half_rd(range.least)) {
    scale = __float2half_ru((range.most - __half2float(minimum)) / 15.0f);
  }
  /// The word that lies behind the codes.
  __device__ __forceinline__ uint32_t bits() const {
    return uint32_t(__half_as_ushort(scale)) | uint32_t(__half_as_ushort(minimum)) << 16;
  }
  __device__ __forceinline__ uint32_t codes(const float x[8]) const {
    const float least = __half2float(minimum), step = __half2float(scale);
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float code = step > 0.0f ? fminf(rintf((x[i] - least) / step), 15.0f) : 0.0f;
      word |= uint32_t(code) << (8 * (i % 4) + 4 * (i / 4));
    }
    return word;
  }
};

/// Rounds a group, of which each of eight neighbouring lanes has a word's elements; where the group has fewer
/// words, several lanes have the last one. `lanes` are those that take part.
__device__ __forceinline__ Rounded round_group(const float x[8], uint32_t lanes) {
  Range range(x);
  range.join<1, 2, 4>(lanes);
  const Rounding rounding(range);
  return {rounding.codes(x), rounding.bits()};
}

/// Eight bytes around the L1 cache.
__device__ __forceinline__ uint2 load_four(const __half *from) {
  return __ldcg(reinterpret_cast<const uint2 *>(from));
}

/// A word's elements of a key or value in fp16, rounded.
__device__ __forceinline__ Rounded round(const __half *from, uint32_t word, uint32_t dimension,
                                         uint32_t lanes = ~0u) {
  const Place at = place(word, dimension);
  const uint2 low = load_four(from + at.low), high = load_four(from + at.high);
  float x[8];
  to_floats(x, make_uint4(low.x, low.y, high.x, high.y));
  return round_group(x, lanes);
}

/// Puts a lane's word, and a group's first lane its scale and minimum, where they lie in a position.
__device__ __forceinline__ void store(uint32_t *position, uint32_t word, uint32_t dimension,
                                      const Rounded &rounded) {
  position[word] = rounded.codes;
  if (word % 8 == 0) position[scales_word(word, dimension)] = rounded.scales;
}

/// The elements 0, 2 | 1, 3 | 4, 6 | 5, 7 of a word as pairs, those of the high halves counted from 4 on. A
/// value is rounded to fp16 once.
__device__ __forceinline__ uint4 expand(const Rounded &rounded) {
  const __half2 scales = quantized::halves(rounded.scales);
  uint32_t pairs[4];
  quantized::expand(pairs, rounded.codes, __low2half2(scales), __high2half2(scales));
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

/// The same, in order: 0, 1 | 2, 3 | 4, 5 | 6, 7. It is its own inverse.
__device__ __forceinline__ uint4 reorder(const uint4 &pairs) {
  return make_uint4(__byte_perm(pairs.x, pairs.y, 0x5410), __byte_perm(pairs.x, pairs.y, 0x7632),
                    __byte_perm(pairs.z, pairs.w, 0x5410), __byte_perm(pairs.z, pairs.w, 0x7632));
}

/// A word's elements of what is kept in fp16, in the order of `expand`.
__device__ __forceinline__ uint4 pairs_like_expanded(const __half *from, uint32_t word, uint32_t dimension) {
  const Place at = place(word, dimension);
  const uint2 low = load_four(from + at.low), high = load_four(from + at.high);
  return reorder(make_uint4(low.x, low.y, high.x, high.y));
}

/// One element of a position, for heads of any dimension.
__device__ __forceinline__ float element(const uint32_t *position, uint32_t d, uint32_t dimension) {
  const uint32_t group = d / GROUP * GROUP, half = min(GROUP, dimension - group) / 2, within = d - group;
  const uint32_t byte = (group / 2) + within % half;
  const uint32_t code = position[byte / 4] >> (8 * (byte % 4) + (within < half ? 0 : 4)) & 15;
  const __half2 scales = quantized::halves(position[dimension / 8 + d / GROUP]);
  return __half2float(__hfma(__uint2half_rn(code), __low2half(scales), __high2half(scales)));
}

}  // namespace quantized_cache
