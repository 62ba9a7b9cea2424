// Every operation, written once over the vector type that the including file has chosen.

// clang-format off: attention is built from the products above it
#include "activation.inl"
#include "convert.inl"
#include "linear.inl"
#include "linear_transposed.inl"
#include "gemm.inl"
#include "quantized_cache.inl"
#include "quantized_attention.inl"
#include "attention.inl"
#include "layer_norm.inl"
#include "join.inl"
#include "embed.inl"
#include "quantized.inl"
#include "measure.inl"
// clang-format on

#define KERNEL_TABLE(set_name, set)                       \
  {                                                       \
      .name = set_name,                                   \
      .instruction_set = set,                             \
      .linear = linear,                                   \
      .linear_transposed = linear_transposed,             \
      .gemm_panel_rows = GEMM_ROWS,                       \
      .gemm_panel_columns = GEMM_COLUMNS,                 \
      .gemm_scratch_count = GEMM_SCRATCH_COUNT,           \
      .pack_rows = pack_rows,                             \
      .gemm = gemm,                                       \
      .attention_scratch_count = attention_scratch_count, \
      .attention = attention,                             \
      .layer_norm = layer_norm,                           \
      .join = join,                                       \
      .embed = embed,                                     \
      .float_from_half = float_from_half,                 \
      .half_from_float = half_from_float,                 \
      .convert = convert,                                 \
      .quantize_tile = quantize_tile,                     \
      .quantize_rows = quantize_rows,                     \
      .quantize_position = quantize_position,             \
      .linear_quantized = linear_quantized,               \
      .gemm_quantized = gemm_quantized,                   \
      .read_all = read_all,                               \
      .read_in_order = read_in_order,                     \
      .multiply_add_peak = multiply_add_peak,             \
  }
