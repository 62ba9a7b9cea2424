#include "EmulatedTiles.h"

#include <math.h>
#include <string.h>

static float from_half(const uint8_t *bytes) {
  const uint32_t half = bytes[0] | (uint32_t)bytes[1] << 8;
  const int exponent = half >> 10 & 31;
  const float fraction = (float)(half & 1023);
  const float magnitude = exponent == 0 ? ldexpf(fraction, -24) : ldexpf(1024 + fraction, exponent - 25);
  return half >> 15 ? -magnitude : magnitude;
}

/// A tile's weights, [input][output].
static void expand(const uint8_t *tile, int64_t bits, int64_t count, float weights[64][16]) {
  static const int order[4] = {0, 2, 1, 3};  // the input that a byte has, of four
  const uint8_t *scales = tile + count * bits * 2, *minimums = scales + 32;
  for (int position = 0; position < 16; position++) {
    const int output = position % 2 * 8 + position / 2;
    const float scale = from_half(scales + 2 * position), minimum = from_half(minimums + 2 * position);
    for (int64_t byte = 0; byte < count * bits / 8; byte++) {
      const int code = tile[byte / 4 * 64 + 4 * position + byte % 4];
      const int64_t first = byte / 4 * (32 / bits) + order[byte % 4];
      if (bits == 4) {
        weights[first][output] = minimum + scale * (float)(code & 15);
        weights[first + 4][output] = minimum + scale * (float)(code >> 4);
      } else {
        weights[first][output] = minimum + scale * (float)code;
      }
    }
  }
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// Adds a tile's part of the product; returns the tile behind it.
static const uint8_t *add_tile(const uint8_t *tile, const float *x, float *y, int64_t bits,
                               int64_t first_input, int64_t count, int64_t first_output, int64_t rows,
                               int64_t inputs, int64_t outputs) {
  if (first_input < inputs && first_output < outputs) {
    float weights[64][16];
    expand(tile, bits, count, weights);
    for (int64_t row = 0; row < rows; row++) {
      float *sums = y + row * outputs + first_output;
      for (int64_t i = 0; i < count; i++) {
        const float value = x[row * inputs + first_input + i];
        for (int output = 0; output < 16; output++) sums[output] += value * weights[i][output];
      }
    }
  }
  return tile + count * bits * 2 + 64;
}

void tandem_emulated_quantized_product(const float *x, const uint8_t *tiles, float *y, int64_t bits,
                                       int64_t period, int64_t by_inputs, int64_t matrix_inputs,
                                       int64_t matrix_outputs, int64_t rows, int64_t inputs,
                                       int64_t outputs) {
  memset(y, 0, sizeof(float) * (size_t)(rows * outputs));
  for (int64_t outer = 0; outer < (by_inputs ? 1 : matrix_outputs); outer += 16) {
    for (int64_t start = 0; start < matrix_inputs; start += period) {
      const int64_t end = least(start + period, matrix_inputs);
      for (int64_t input = start; input < end; input += 64) {
        const int64_t count = least(64, end - input);
        for (int64_t inner = 0; inner < (by_inputs ? matrix_outputs : 16); inner += 16) {
          tiles = add_tile(tiles, x, y, bits, input, count, outer + inner, rows, inputs, outputs);
        }
      }
    }
  }
}
