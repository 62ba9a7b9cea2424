#ifndef TANDEM_CPU_KERNELS_H
#define TANDEM_CPU_KERNELS_H

// The arithmetic of the CPU lane. Every function here runs on the calling thread alone and allocates nothing:
// the caller owns all memory and divides the work over its threads.
//
// Weights and KV caches are fp16 (`tandem_half`, the bits of an IEEE binary16), activations are fp32, and
// every sum is accumulated in fp32. Strides are counted in elements, not bytes. Shapes are written [rows,
// columns], row-major. No argument may alias another unless it is said.

#include <stddef.h>
#include <stdint.h>

typedef uint16_t tandem_half;

typedef enum {
  TANDEM_PORTABLE = 0,
  TANDEM_AVX2 = 1,         // AVX2, FMA and F16C
  TANDEM_AVX512 = 2,       // AVX-512 F, BW, VL, DQ
  TANDEM_AVX512_VNNI = 3,  // and VNNI, products of bytes
} tandem_instruction_set;

typedef enum {
  TANDEM_IDENTITY = 0,
  TANDEM_RELU = 1,
  TANDEM_GELU = 2,  // x * (1 + erf(x / sqrt(2))) / 2, the exact form, to 1e-6 absolute
} tandem_activation;

typedef enum {
  TANDEM_FLOAT16 = 0,
  TANDEM_BFLOAT16 = 1,
  TANDEM_FLOAT32 = 2,
} tandem_scalar_type;

/// Outputs of a tile of quantized weights, and the most inputs of a group; docs/quantization.md has the
/// layout.
#define TANDEM_TILE_OUTPUTS 16
#define TANDEM_GROUP_INPUTS 64

/// y[r, o] = activation(bias[o] + sum over i of x[r, i] * weights[o, i])
///
/// For few rows (1 ... 32): reads every weight from memory once, in order. `bias` may be NULL.
typedef struct {
  const float *x;  // [rows, inputs]
  size_t x_stride;
  const tandem_half *weights;  // [outputs, inputs], contiguous
  const float *bias;           // [outputs] or NULL
  float *y;                    // [rows, outputs]
  size_t y_stride;
  size_t rows, inputs, outputs;
  tandem_activation activation;
} tandem_linear;

/// y[r, o] = sum over i of x[r, i] * weights[i, o], added to what y holds where `accumulate` is set
///
/// For few rows (1 ... 32) and weights stored transposed, as the output projection and fc2 are: a range of
/// heads or neurons is then a contiguous range of memory, and the result is that range's share of the block's
/// sum.
typedef struct {
  const float *x;  // [rows, inputs]
  size_t x_stride;
  const tandem_half *weights;  // [inputs, outputs], contiguous
  float *y;                    // [rows, outputs]
  size_t y_stride;
  size_t rows, inputs, outputs;
  int32_t accumulate;
} tandem_linear_transposed;

/// y[r, o] = activation(bias[o] + sum over i of x[r, i] * W[o, i]) for many rows (prefill).
///
/// `packed_x` was made by `pack_rows`. A weight is converted and packed once for each `gemm_row_block` rows.
/// W is `weights[o * weights_stride + i]`, or `weights[i * weights_stride + o]` where `transposed` is set.
typedef struct {
  const float *packed_x;
  const tandem_half *weights;
  size_t weights_stride;
  int32_t transposed;
  const float *bias;  // [outputs] or NULL
  float *y;           // [rows, outputs]
  size_t y_stride;
  size_t rows, inputs, outputs;
  tandem_activation activation;
  float *scratch;  // `gemm_scratch_count` floats, 64-byte aligned, the thread's own
} tandem_gemm;

/// Attention of a few queries of one head over the head's cache, causal:
/// query q sees the positions 0 ... first_position + q.
///
/// out[q, :] = softmax(queries[q, :] . keys^T) . values, with the queries already scaled by head_dim^-0.5.
typedef struct {
  const float *queries;  // [query_count, head_dim]
  size_t query_stride;
  const void *keys;    // [first_position + query_count, head_dim], contiguous, of `cache_bits`
  const void *values;  // the same shape
  float *out;          // [query_count, head_dim]
  size_t out_stride;
  size_t query_count, head_dim, first_position;
  float *scratch;  // attention_scratch_count(first_position + query_count) floats, 64-byte aligned
  // 16 (or 0): fp16. 4: positions that `quantize_position` made, of which up to 4 queries, rounded to 16
  // bits, multiply the codes.
  int32_t cache_bits;
} tandem_attention;

/// The bytes of a head's key or value of one position in 4 bits: docs/quantization.md has the layout.
/// `head_dim` is a multiple of 16.
static inline size_t tandem_quantized_position_bytes(size_t head_dim) {
  return head_dim / 2 + 4 * ((head_dim + TANDEM_GROUP_INPUTS - 1) / TANDEM_GROUP_INPUTS);
}

/// y[r, :] = (x[r, :] - mean) / sqrt(variance + epsilon) * weight + bias; y may be x.
typedef struct {
  const float *x;  // [rows, width]
  size_t x_stride;
  float *y;  // [rows, width]
  size_t y_stride;
  const float *weight;  // [width] or NULL for 1
  const float *bias;    // [width] or NULL for 0
  size_t rows, width;
  float epsilon;
} tandem_layer_norm;

/// x[r, c] += bias[c] + sum over p of partials[p * partial_stride + r * row_stride + c]: the sum that ends a
/// block.
typedef struct {
  float *x;  // [rows, width]
  size_t x_stride;
  const float *bias;      // [width] or NULL
  const float *partials;  // [partial_count, rows, width]
  size_t partial_stride, row_stride, partial_count;
  size_t rows, width;
} tandem_join;

/// Converts a [rows, columns] block of a checkpoint's tensor to fp16, transposing it where asked:
/// destination[r * destination_stride + c] = source[r * source_stride + c], or with `transposed`
/// destination[c * destination_stride + r].
typedef struct {
  const void *source;  // any alignment
  tandem_scalar_type source_type;
  size_t source_stride;
  tandem_half *destination;
  size_t destination_stride;
  size_t rows, columns;
  int32_t transposed;
} tandem_convert;

/// Makes the tile of 16 outputs x one group from fp16 weights.
typedef struct {
  const tandem_half *weights;  // [16, inputs]
  size_t stride;
  size_t inputs;  // of the group: 16, 32, 48 or 64
  int32_t bits;   // 4 or 8
  void *tile;
} tandem_quantize_tile;

/// What a row's activations take for each group, ready for products with quantized weights.
#define TANDEM_QUANTIZED_GROUP_BYTES 136

/// Makes a few rows ready for products with quantized weights: rounds each group to 15 bits.
typedef struct {
  const float *x;  // [rows, inputs]
  size_t x_stride;
  size_t rows, inputs;
  size_t period;  // inputs after which a group ends in any case
  void *groups;   // [groups, rows] of TANDEM_QUANTIZED_GROUP_BYTES, 8-byte aligned
} tandem_quantize_rows;

/// y[r, o] = activation(bias[o] + sum over i of x[r, i] * W[o, i]) for weights that are kept by outputs; for
/// those kept by inputs y[r, o] = that sum alone, added to what y holds where `accumulate` is set. For few
/// rows (1 ... 32).
typedef struct {
  const void *x;        // of quantize_rows
  const void *weights;  // tiles, 64-byte aligned
  int32_t bits;
  int32_t by_inputs;
  size_t period;
  const float *bias;  // [outputs] or NULL; by outputs
  float *y;           // [rows, outputs]
  size_t y_stride;
  size_t rows, inputs, outputs;
  tandem_activation activation;  // by outputs
  int32_t accumulate;            // by inputs
} tandem_linear_quantized;

/// The same for many rows (prefill), without adding to y. Both orders take a bias.
typedef struct {
  const float *packed_x;
  const void *weights;  // the whole matrix's tiles
  int32_t bits;
  int32_t by_inputs;
  size_t period;
  size_t matrix_outputs, first_output;  // of the matrix, and the first of those that are wanted
  const float *bias;                    // of the first wanted one, or NULL
  float *y;                             // [rows, outputs]
  size_t y_stride;
  size_t rows, inputs, outputs;
  tandem_activation activation;
  float *scratch;  // `gemm_scratch_count` floats, 64-byte aligned, the thread's own
} tandem_gemm_quantized;

typedef struct {
  const char *name;
  tandem_instruction_set instruction_set;

  void (*linear)(const tandem_linear *);
  void (*linear_transposed)(const tandem_linear_transposed *);

  /// Rows of a panel of packed activations: a thread's share of `pack_rows` starts at a multiple of it.
  size_t gemm_panel_rows;
  /// Columns of a panel of packed weights: a thread's share of the outputs is best a multiple of it.
  size_t gemm_panel_columns;
  size_t gemm_scratch_count;
  /// Packs x [rows, inputs] into panels, [ceil(rows / panel_rows), inputs, panel_rows], the last one padded
  /// with zeros. A panel p starts at packed + p * inputs * gemm_panel_rows.
  void (*pack_rows)(const float *x, size_t x_stride, size_t rows, size_t inputs, float *packed);
  void (*gemm)(const tandem_gemm *);

  size_t (*attention_scratch_count)(size_t positions);
  void (*attention)(const tandem_attention *);

  void (*layer_norm)(const tandem_layer_norm *);
  void (*join)(const tandem_join *);

  /// y[i] = token[i] + position[i]
  void (*embed)(const tandem_half *token, const tandem_half *position, float *y, size_t count);
  void (*float_from_half)(const tandem_half *source, float *destination, size_t count);
  /// Rounds to nearest even.
  void (*half_from_float)(const float *source, tandem_half *destination, size_t count);

  /// Returns how many finite values became infinite because fp16 cannot hold them.
  size_t (*convert)(const tandem_convert *);

  /// Returns how many of the weights are infinite or no numbers; the tile is of no use then.
  size_t (*quantize_tile)(const tandem_quantize_tile *);
  void (*quantize_rows)(const tandem_quantize_rows *);
  /// Makes a head's key or value of one position, head_dim floats, its 4 bits.
  void (*quantize_position)(const float *source, void *position, size_t head_dim);
  void (*linear_quantized)(const tandem_linear_quantized *);
  void (*gemm_quantized)(const tandem_gemm_quantized *);

  /// Reads every byte once, as fast as we know how, and returns the sum of all 64-bit words.
  uint64_t (*read_all)(const void *bytes, size_t byte_count);
  /// The same as a plain loop, in the order of the addresses: what decode is measured against.
  uint64_t (*read_in_order)(const void *bytes, size_t byte_count);
  /// Runs `iterations` rounds of independent fused multiply-adds from registers; returns the floating-point
  /// operations done and adds the result to *sink, so that nothing can be left out.
  double (*multiply_add_peak)(size_t iterations, float *sink);
} tandem_cpu_kernels;

/// The kernels for an instruction set, or NULL where this processor lacks it.
const tandem_cpu_kernels *tandem_cpu_kernels_for(tandem_instruction_set instruction_set);

/// The CRC-32C (Castagnoli, as in RFC 3720) of some bytes, with the processor's instruction for it where
/// there is one; and the same from tables.
uint32_t tandem_crc32c(const void *bytes, size_t byte_count);
uint32_t tandem_crc32c_portable(const void *bytes, size_t byte_count);

#endif
