#ifndef TANDEM_EMULATED_TILES_H
#define TANDEM_EMULATED_TILES_H

#include <stdint.h>

/// y[r, o] = sum over i of x[r, i] * W[o, i] for the first `inputs` and `outputs` of a quantized matrix
/// (docs/quantization.md), which is walked tile by tile as it lies: x is [rows, inputs], y [rows, outputs].
void tandem_emulated_quantized_product(const float *x, const uint8_t *tiles, float *y, int64_t bits,
                                       int64_t period, int64_t by_inputs, int64_t matrix_inputs,
                                       int64_t matrix_outputs, int64_t rows, int64_t inputs, int64_t outputs);

#endif
