// Sixteen floats in a 512-bit register; 32 registers.

typedef __m512 vec;
#define VEC_WIDTH 16

// Accumulators of a tile fill 24 of the 32 registers; the rest hold weights and one activation.
#define LINEAR_TILE_ROWS 8
// Asking 64 KB ahead read 0.95 to 0.97 of the read loop's rate, 16 KB 0.85 to 0.92, not asking 0.82 to 0.86
// (Sapphire Rapids).
#define LINEAR_STREAMS 4
#define LINEAR_STREAMS_AHEAD 65536
#define TRANSPOSED_STREAMS_AHEAD 65536
// Eight rows: 52 ms -> 46 ms a token of a 1.3b model on two cores, against 8 inputs and no asking.
#define TRANSPOSED_TILED_INPUTS 16
#define TRANSPOSED_TILED_AHEAD 65536
#define TRANSPOSED_TILE_ROWS 8
#define TILE_VECTORS 24
#define GEMM_ROWS 12
#define GEMM_VECTORS 2
#define QUANTIZED_ROWS 8
#define QUANTIZED_AHEAD 4096

INLINE vec vec_zero(void) { return _mm512_setzero_ps(); }
INLINE vec vec_set1(float a) { return _mm512_set1_ps(a); }
INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vec_store(float *p, vec v) { _mm512_storeu_ps(p, v); }
INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vec_sqrt(vec a) { return _mm512_sqrt_ps(a); }
INLINE vec vec_abs(vec a) { return _mm512_abs_ps(a); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }

/// Computes an accumulator before any load that follows in the source. A tile uses every register, so a load
/// that the compiler moves up pushes an accumulator out to the stack, which was measured to cost half of the
/// speed.
INLINE void vec_settle(vec *a) { __asm__ volatile("" : "+v"(*a) : : "memory"); }

/// a * 2^n, where n stands in the low bits of t.
INLINE vec vec_scale(vec a, vec t) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}

// The first `count` lanes, fewer than the width; the others are zero and their memory is not touched.
INLINE __mmask16 vec_mask(size_t count) { return (__mmask16)((1u << count) - 1); }
INLINE vec vec_load_part(const float *p, size_t count) { return _mm512_maskz_loadu_ps(vec_mask(count), p); }
INLINE void vec_store_part(float *p, vec v, size_t count) { _mm512_mask_storeu_ps(p, vec_mask(count), v); }

INLINE vec vec_load_half(const tandem_half *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE vec vec_load_half_part(const tandem_half *p, size_t count) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_mask(count), p));
}
/// The first and the second half of each pair.
INLINE void vec_load_half_pairs(const uint32_t *p, vec *first, vec *second) {
  const __m512i pairs = _mm512_loadu_si512(p);
  *first = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
  *second = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
}
INLINE void vec_store_half(tandem_half *p, vec v) {
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE void vec_store_half_part(tandem_half *p, vec v, size_t count) {
  _mm256_mask_storeu_epi16(p, vec_mask(count),
                           _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE vec vec_from_bfloats(__m256i v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}
INLINE vec vec_load_bfloat(const void *p) { return vec_from_bfloats(_mm256_loadu_si256((const __m256i *)p)); }
INLINE vec vec_load_bfloat_part(const void *p, size_t count) {
  return vec_from_bfloats(_mm256_maskz_loadu_epi16(vec_mask(count), p));
}

INLINE float vec_sum(vec v) { return _mm512_reduce_add_ps(v); }
INLINE __m256 vec_halves_added(vec v) {
  return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}
/// sums[i] = the sum of v[i]'s lanes.
INLINE void vec_sum4(const vec v[4], float sums[4]) {
  __m256 a = _mm256_hadd_ps(vec_halves_added(v[0]), vec_halves_added(v[1]));
  __m256 b = _mm256_hadd_ps(vec_halves_added(v[2]), vec_halves_added(v[3]));
  __m256 c = _mm256_hadd_ps(a, b);
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1)));
}
INLINE float vec_max_lane(vec v) { return _mm512_reduce_max_ps(v); }

/// How many lanes are finite, yet round to an infinite half.
INLINE size_t vec_count_overflow(vec v) {
  vec a = vec_abs(v);
  __mmask16 over = _mm512_cmp_ps_mask(a, _mm512_set1_ps(65520.0f), _CMP_GE_OQ);
  __mmask16 finite = _mm512_cmp_ps_mask(a, _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
  return (size_t)__builtin_popcount((unsigned)(over & finite));
}

typedef __m512i words;
INLINE words words_zero(void) { return _mm512_setzero_si512(); }
INLINE words words_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE words words_add(words a, words b) { return _mm512_add_epi64(a, b); }
INLINE uint64_t words_sum(words a) { return (uint64_t)_mm512_reduce_add_epi64(a); }

#ifdef TANDEM_HAS_VNNI
// Codes of quantized weights, and sums of them times activations, an output a lane. Activations are two bytes
// each: the upper ones of a group in the order of a tile's bytes, then the lower ones.
#define QUANTIZED_BYTES 1
#define CODES_STRIDE 1
typedef __m512i codes;
typedef struct {
  __m512i upper, lower;
} code_sum;
INLINE codes codes_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE code_sum code_sum_zero(void) { return (code_sum){_mm512_setzero_si512(), _mm512_setzero_si512()}; }
INLINE vec code_sum_floats(code_sum sum) {
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sum.upper, 7), sum.lower));
}
INLINE vec codes_floats(codes c, unsigned shift, uint32_t mask) {
  return _mm512_cvtepi32_ps(
      _mm512_and_si512(_mm512_srl_epi32(c, _mm_cvtsi32_si128((int)shift)), _mm512_set1_epi32((int)mask)));
}
INLINE __m512i bytes_repeated(const int8_t *x) {
  int32_t four;
  memcpy(&four, x, sizeof four);
  return _mm512_set1_epi32(four);
}
INLINE code_sum codes_add8(code_sum sum, codes c, const int8_t *x) {
  sum.upper = _mm512_dpbusd_epi32(sum.upper, c, bytes_repeated(x));
  sum.lower = _mm512_dpbusd_epi32(sum.lower, c, bytes_repeated(x + 64));
  return sum;
}
INLINE code_sum codes_add4(code_sum sum, codes c, const int8_t *x) {
  const __m512i low_half = _mm512_set1_epi8(15);
  sum = codes_add8(sum, _mm512_and_si512(c, low_half), x);
  return codes_add8(sum, _mm512_and_si512(_mm512_srli_epi32(c, 4), low_half), x + 4);
}
#else
// Codes of quantized weights, and sums of them times activations, an output a lane. Activations are numbers
// of 16 bits.
#define QUANTIZED_BYTES 0
#define CODES_STRIDE 2
typedef __m512i codes;
typedef __m512i code_sum;
INLINE codes codes_load(const void *p) { return _mm512_loadu_si512((const codes *)p); }
INLINE code_sum code_sum_zero(void) { return _mm512_setzero_si512(); }
INLINE vec code_sum_floats(code_sum sum) { return _mm512_cvtepi32_ps(sum); }
INLINE vec codes_floats(codes c, unsigned shift, uint32_t mask) {
  return _mm512_cvtepi32_ps(
      _mm512_and_si512(_mm512_srl_epi32(c, _mm_cvtsi32_si128((int)shift)), _mm512_set1_epi32((int)mask)));
}
/// Adds the codes of bytes 0 and 2 of each word, which `mask` leaves, times two activations.
INLINE code_sum codes_add_pair(code_sum sum, codes c, int mask, const int8_t *x) {
  int32_t pair;
  memcpy(&pair, x, sizeof pair);
  const codes pairs = _mm512_and_si512(c, _mm512_set1_epi32(mask));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi32(pair)));
}
INLINE code_sum codes_add4(code_sum sum, codes c, const int8_t *x) {
  sum = codes_add_pair(sum, c, 0x000f000f, x);
  sum = codes_add_pair(sum, _mm512_srli_epi32(c, 8), 0x000f000f, x + 4);
  sum = codes_add_pair(sum, _mm512_srli_epi32(c, 4), 0x000f000f, x + 8);
  return codes_add_pair(sum, _mm512_srli_epi32(c, 12), 0x000f000f, x + 12);
}
INLINE code_sum codes_add8(code_sum sum, codes c, const int8_t *x) {
  sum = codes_add_pair(sum, c, 0x00ff00ff, x);
  return codes_add_pair(sum, _mm512_srli_epi32(c, 8), 0x00ff00ff, x + 4);
}
#endif

#include "HalfBlock_x86.h"
#ifdef TANDEM_HAS_VNNI
#include "CacheBlock_VNNI.h"
#else
#include "CacheBlock_AVX2.h"
#endif
