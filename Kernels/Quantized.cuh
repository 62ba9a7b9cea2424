// Quantized weights (docs/quantization.md): where their tiles lie, and how a lane's part of one becomes the
// operands of products.
#pragma once

#include "Kernel.cuh"

namespace quantized {

constexpr uint32_t TILE_OUTPUTS = 16, GROUP_INPUTS = 64;

/// A group: its first input, how many there are (0: nothing is read), and the bytes of one tile of each group
/// in front of it.
struct Group {
  uint32_t input, count, offset;
};

/// The tiles of a matrix. Of K inputs a tile has 2 * BITS * K bytes of codes, then 64 of scales and minimums.
template <int BITS>
struct Tiles {
  const unsigned char *first;
  uint32_t inputs, period, groups_per_period, blocks;
  uint32_t row_bytes;  // of a block's tiles of all groups
  bool by_inputs;

  template <typename Arguments>
  __device__ __forceinline__ Tiles(const Arguments &a, bool by_inputs)
      : first(as<const unsigned char>(a.tiles)),
        inputs(a.inputs),
        period(a.period),
        groups_per_period((a.period + GROUP_INPUTS - 1) / GROUP_INPUTS),
        blocks(a.outputs / TILE_OUTPUTS),
        row_bytes(2 * BITS * a.inputs + 64 * group_count(a.inputs)),
        by_inputs(by_inputs) {}

  /// The groups of the first `count` inputs.
  __device__ __forceinline__ uint32_t group_count(uint32_t count) const {
    return count / period * groups_per_period + (count % period + GROUP_INPUTS - 1) / GROUP_INPUTS;
  }

  __device__ __forceinline__ Group group(uint32_t index) const {
    // A division takes as long as a dozen other instructions; only heads of 80 or 96 need one.
    const uint32_t whole = groups_per_period == 1 ? index : index / groups_per_period;
    const uint32_t within = (index - whole * groups_per_period) * GROUP_INPUTS;
    const uint32_t input = whole * period + within;
    return {input, min(min(GROUP_INPUTS, period - within), inputs - input), 2 * BITS * input + 64 * index};
  }

  __device__ __forceinline__ const unsigned char *tile(uint32_t block, const Group &group) const {
    const uint32_t tile_bytes = 2 * BITS * group.count + 64;
    return first + size_t(by_inputs ? blocks : 1) * group.offset +
           size_t(by_inputs ? tile_bytes : row_bytes) * block;
  }
};

/// What lane (g, t) needs of a tile: outputs g and g + 8 of the inputs 8t ... 8t + 7 of each half of 32.
template <int BITS>
struct Part {
  uint2 codes[BITS / 2];      // of outputs g and g + 8; with 8 bits four inputs in each, else eight
  uint32_t scales, minimums;  // of outputs g and g + 8

  /// Where the lane's codes begin in a tile.
  static __device__ __forceinline__ uint32_t place(uint32_t g, uint32_t t) { return 16 * BITS * t + 8 * g; }

  /// Of a tile of `count` inputs, from the lane's place on. Where the lane's first eight inputs are behind
  /// them its weights are zero; where the second eight are they are any, and x must be zero.
  __device__ __forceinline__ void read(const unsigned char *at, uint32_t count, uint32_t g, uint32_t t) {
    const bool is_inside = 8 * t < count;
#pragma unroll
    for (uint32_t i = 0; i < BITS / 2; i++) {
      const uint32_t half = BITS == 4 ? i : i / 2;
      load_once_if(half == 0 ? is_inside : 8 * t + 32 < count, codes[i],
                   at + 64 * BITS * half + (BITS == 4 ? 0 : 64 * (i % 2)));
    }
    const unsigned char *scale = at + int32_t(2 * BITS * count + 4 * g - place(g, t));
    if (!is_inside) scales = minimums = 0;
    load_once_if(is_inside, scales, scale);
    load_once_if(is_inside, minimums, scale + 32);
  }
};

__device__ __forceinline__ __half2 halves(uint32_t bits) { return *reinterpret_cast<const __half2 *>(&bits); }
__device__ __forceinline__ uint32_t bits(__half2 halves) { return *reinterpret_cast<uint32_t *>(&halves); }

// The bits of a code within those of 1024 are the number 1024 + code, so no conversion is needed. 1024 is
// subtracted exactly, and scale and minimum round once: the same number whichever kernel makes it.
constexpr uint32_t ONES_1024 = 0x64006400;

/// Two inputs' weights, of the numbers 1024 + code.
__device__ __forceinline__ uint32_t weights(uint32_t numbers, __half2 scale, __half2 minimum) {
  return bits(__hfma2(__hsub2(halves(numbers), halves(ONES_1024)), scale, minimum));
}

/// The same of the numbers 1024 + 16 * code, as codes in the upper halves of bytes become without a shift.
__device__ __forceinline__ uint32_t weights_of_16(uint32_t numbers, __half2 scale, __half2 minimum) {
  const __half2 codes = __hfma2(halves(numbers), halves(0x2c002c00), halves(0xd400d400));  // / 16 - 64
  return bits(__hfma2(codes, scale, minimum));
}

/// The weights of one output and eight inputs, in pairs.
__device__ __forceinline__ void expand(uint32_t pairs[4], uint32_t word, __half2 scale, __half2 minimum) {
  const uint32_t later = word >> 8;
  pairs[0] = weights(mask_and_set(word, 0x000f000f, ONES_1024), scale, minimum);
  pairs[1] = weights(mask_and_set(later, 0x000f000f, ONES_1024), scale, minimum);
  pairs[2] = weights_of_16(mask_and_set(word, 0x00f000f0, ONES_1024), scale, minimum);
  pairs[3] = weights_of_16(mask_and_set(later, 0x00f000f0, ONES_1024), scale, minimum);
}

__device__ __forceinline__ void expand(uint32_t pairs[4], uint32_t word, uint32_t next_word, __half2 scale,
                                       __half2 minimum) {
  pairs[0] = weights(__byte_perm(word, ONES_1024, 0x5250), scale, minimum);
  pairs[1] = weights(__byte_perm(word, ONES_1024, 0x5351), scale, minimum);
  pairs[2] = weights(__byte_perm(next_word, ONES_1024, 0x5250), scale, minimum);
  pairs[3] = weights(__byte_perm(next_word, ONES_1024, 0x5351), scale, minimum);
}

/// The weights of half a tile as the first operands of two products, of which x's 16 bytes at input 8t are
/// the second ones: the inputs' order within a product is free as long as both agree.
template <int BITS>
__device__ __forceinline__ void expand(uint32_t first[4], uint32_t second[4], const Part<BITS> &part,
                                       int half) {
  const __half2 scales = halves(part.scales), minimums = halves(part.minimums);
  uint32_t low[4], high[4];  // of outputs g and g + 8
  if constexpr (BITS == 4) {
    const uint2 codes = part.codes[half];
    expand(low, codes.x, __low2half2(scales), __low2half2(minimums));
    expand(high, codes.y, __high2half2(scales), __high2half2(minimums));
  } else {
    const uint2 codes = part.codes[2 * half], next = part.codes[2 * half + 1];
    expand(low, codes.x, next.x, __low2half2(scales), __low2half2(minimums));
    expand(high, codes.y, next.y, __high2half2(scales), __high2half2(minimums));
  }
  first[0] = low[0], first[1] = high[0], first[2] = low[1], first[3] = high[1];
  second[0] = low[2], second[1] = high[2], second[2] = low[3], second[3] = high[3];
}

}  // namespace quantized
