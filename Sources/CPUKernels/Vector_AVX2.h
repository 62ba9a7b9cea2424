// Eight floats in a 256-bit register; 16 registers.

typedef __m256 vec;
#define VEC_WIDTH 8

// Accumulators of a tile fill 12 of the 16 registers; the rest hold weights and one activation.
#define LINEAR_TILE_ROWS 4
// Eight streams read 0.87 of the plain read loop's rate, four 0.83, and asking ahead made it less (Zen 3).
#define LINEAR_STREAMS 8
#define LINEAR_STREAMS_AHEAD 0
#define TRANSPOSED_STREAMS_AHEAD 0
#define TRANSPOSED_TILED_INPUTS 8
#define TRANSPOSED_TILED_AHEAD 0
#define TRANSPOSED_TILE_ROWS 4
#define TILE_VECTORS 12
#define GEMM_ROWS 6
#define GEMM_VECTORS 2
#define QUANTIZED_ROWS 4
#define QUANTIZED_AHEAD 4096

INLINE vec vec_zero(void) { return _mm256_setzero_ps(); }
INLINE vec vec_set1(float a) { return _mm256_set1_ps(a); }
INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vec_store(float *p, vec v) { _mm256_storeu_ps(p, v); }
INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
INLINE vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
INLINE vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec vec_sqrt(vec a) { return _mm256_sqrt_ps(a); }
INLINE vec vec_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }

/// Computes an accumulator before any load that follows in the source. A tile uses every register, so a load
/// that the compiler moves up pushes an accumulator out to the stack, which was measured to cost half of the
/// speed.
INLINE void vec_settle(vec *a) { __asm__ volatile("" : "+x"(*a) : : "memory"); }

/// a * 2^n, where n stands in the low bits of t.
INLINE vec vec_scale(vec a, vec t) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}

// The first `count` lanes, fewer than the width; the others are zero and their memory is not touched.
INLINE __m256i vec_mask(size_t count) {
  static const int32_t ones_then_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i *)(ones_then_zeros + 8 - count));
}
INLINE vec vec_load_part(const float *p, size_t count) { return _mm256_maskload_ps(p, vec_mask(count)); }
INLINE void vec_store_part(float *p, vec v, size_t count) { _mm256_maskstore_ps(p, vec_mask(count), v); }

INLINE __m128i halves_load_part(const void *p, size_t count) {
  tandem_half lanes[8] = {0};
  for (size_t i = 0; i < count; i++) memcpy(lanes + i, (const char *)p + 2 * i, 2);
  return _mm_loadu_si128((const __m128i *)lanes);
}

INLINE vec vec_load_half(const tandem_half *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
INLINE vec vec_load_half_part(const tandem_half *p, size_t count) {
  return _mm256_cvtph_ps(halves_load_part(p, count));
}
/// The first and the second half of each pair.
INLINE void vec_load_half_pairs(const uint32_t *p, vec *first, vec *second) {
  const __m256i pairs = _mm256_loadu_si256((const __m256i *)p);
  const __m256i by_lane =
      _mm256_packus_epi32(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32(pairs, 16));
  const __m256i in_order = _mm256_permute4x64_epi64(by_lane, 0xd8);
  *first = _mm256_cvtph_ps(_mm256_castsi256_si128(in_order));
  *second = _mm256_cvtph_ps(_mm256_extracti128_si256(in_order, 1));
}
INLINE void vec_store_half(tandem_half *p, vec v) {
  _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void vec_store_half_part(tandem_half *p, vec v, size_t count) {
  tandem_half lanes[8];
  vec_store_half(lanes, v);
  for (size_t i = 0; i < count; i++) p[i] = lanes[i];
}

INLINE vec vec_from_bfloats(__m128i v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}
INLINE vec vec_load_bfloat(const void *p) { return vec_from_bfloats(_mm_loadu_si128((const __m128i *)p)); }
INLINE vec vec_load_bfloat_part(const void *p, size_t count) {
  return vec_from_bfloats(halves_load_part(p, count));
}

INLINE float vec_sum(vec v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
/// sums[i] = the sum of v[i]'s lanes.
INLINE void vec_sum4(const vec v[4], float sums[4]) {
  vec a = _mm256_hadd_ps(v[0], v[1]), b = _mm256_hadd_ps(v[2], v[3]);
  vec c = _mm256_hadd_ps(a, b);
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1)));
}
INLINE float vec_max_lane(vec v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/// How many lanes are finite, yet round to an infinite half.
INLINE size_t vec_count_overflow(vec v) {
  vec a = vec_abs(v);
  vec over = _mm256_cmp_ps(a, _mm256_set1_ps(65520.0f), _CMP_GE_OQ);
  vec finite = _mm256_cmp_ps(a, _mm256_set1_ps(__builtin_inff()), _CMP_LT_OQ);
  return (size_t)__builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_and_ps(over, finite)));
}

typedef __m256i words;
INLINE words words_zero(void) { return _mm256_setzero_si256(); }
INLINE words words_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE words words_add(words a, words b) { return _mm256_add_epi64(a, b); }
INLINE uint64_t words_sum(words a) {
  uint64_t lanes[4];
  _mm256_storeu_si256((__m256i *)lanes, a);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

#include "CacheBlock_AVX2.h"
#include "HalfBlock_x86.h"

// Codes of quantized weights, and sums of them times activations, an output a lane. Activations are numbers
// of 16 bits.
#define QUANTIZED_BYTES 0
#define CODES_STRIDE 2
typedef __m256i codes;
typedef __m256i code_sum;
INLINE codes codes_load(const void *p) { return _mm256_loadu_si256((const codes *)p); }
INLINE code_sum code_sum_zero(void) { return _mm256_setzero_si256(); }
INLINE vec code_sum_floats(code_sum sum) { return _mm256_cvtepi32_ps(sum); }
INLINE vec codes_floats(codes c, unsigned shift, uint32_t mask) {
  return _mm256_cvtepi32_ps(
      _mm256_and_si256(_mm256_srl_epi32(c, _mm_cvtsi32_si128((int)shift)), _mm256_set1_epi32((int)mask)));
}
/// Adds the codes of bytes 0 and 2 of each word, which `mask` leaves, times two activations.
INLINE code_sum codes_add_pair(code_sum sum, codes c, int mask, const int8_t *x) {
  int32_t pair;
  memcpy(&pair, x, sizeof pair);
  const codes pairs = _mm256_and_si256(c, _mm256_set1_epi32(mask));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi32(pair)));
}
INLINE code_sum codes_add4(code_sum sum, codes c, const int8_t *x) {
  sum = codes_add_pair(sum, c, 0x000f000f, x);
  sum = codes_add_pair(sum, _mm256_srli_epi32(c, 8), 0x000f000f, x + 4);
  sum = codes_add_pair(sum, _mm256_srli_epi32(c, 4), 0x000f000f, x + 8);
  return codes_add_pair(sum, _mm256_srli_epi32(c, 12), 0x000f000f, x + 12);
}
INLINE code_sum codes_add8(code_sum sum, codes c, const int8_t *x) {
  sum = codes_add_pair(sum, c, 0x00ff00ff, x);
  return codes_add_pair(sum, _mm256_srli_epi32(c, 8), 0x00ff00ff, x + 4);
}
