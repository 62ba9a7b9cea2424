// Codes of 16 positions of a cache in 4 bits, 32 bytes of each: their products with a query, and their sums,
// as products of bytes. A register has the 32 bytes of two positions that lie four apart.

/// Numbers of 16 bits as 256 * upper + lower.
typedef struct {
  _Alignas(64) int8_t upper[CACHE_CODES];
  int8_t lower[CACHE_CODES];
} cache_numbers;

INLINE void cache_weights(const int16_t numbers[CACHE_CODES], cache_numbers *weights) {
  for (size_t i = 0; i < CACHE_CODES; i++) {
    weights->upper[i] = (int8_t)((numbers[i] + 128) >> 8);
    weights->lower[i] = (int8_t)numbers[i];
  }
}
INLINE void cache_query(const int16_t numbers[CACHE_CODES], cache_numbers *query) {
  cache_weights(numbers, query);
}

INLINE __m512i cache_load(const uint8_t *codes, size_t stride) {
  const __m256i first = _mm256_loadu_si256((const __m256i *)codes);
  const __m256i fifth = _mm256_loadu_si256((const __m256i *)(codes + 4 * stride));
  return _mm512_inserti64x4(_mm512_castsi256_si512(first), fifth, 1);
}
INLINE __m512i cache_low(__m512i bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
INLINE __m512i cache_high(__m512i bytes) { return cache_low(_mm512_srli_epi16(bytes, 4)); }
INLINE __m512i cache_twice(const int8_t *numbers) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)numbers));
}

/// dots[p] = the codes of position p times the query's numbers.
INLINE void cache_dots(const uint8_t *codes, size_t stride, const cache_numbers *query, float dots[16]) {
  const __m512i upper_low = cache_twice(query->upper), upper_high = cache_twice(query->upper + 32);
  const __m512i lower_low = cache_twice(query->lower), lower_high = cache_twice(query->lower + 32);
  __m512i of_eight[2];
  UNROLL for (size_t eight = 0; eight < 2; eight++) {
    __m512i sums[4];
    UNROLL for (size_t p = 0; p < 4; p++) {
      const __m512i bytes = cache_load(codes + (8 * eight + p) * stride, stride);
      const __m512i low = cache_low(bytes), high = cache_high(bytes);
      __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), low, upper_low);
      sum = _mm512_slli_epi32(_mm512_dpbusd_epi32(sum, high, upper_high), 8);
      sums[p] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, low, lower_low), high, lower_high);
    }
    // Of two registers the sums of lanes 0 and 2, 1 and 3, side by side; then all four of a quarter.
    const __m512i ab =
        _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]), _mm512_unpackhi_epi32(sums[0], sums[1]));
    const __m512i cd =
        _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2], sums[3]), _mm512_unpackhi_epi32(sums[2], sums[3]));
    of_eight[eight] = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  }
  const __m512i sum = _mm512_add_epi32(_mm512_shuffle_i32x4(of_eight[0], of_eight[1], 0x88),
                                       _mm512_shuffle_i32x4(of_eight[0], of_eight[1], 0xdd));
  _mm512_storeu_ps(dots, _mm512_cvtepi32_ps(sum));
}

/// For each of the 64 codes the sum over positions: register k has bytes 4k ... 4k + 3, 16 + 4k ..., and the
/// same again of the other four positions.
typedef struct {
  __m512i upper[2][4], lower[2][4];  // [half]
} cache_sums;

INLINE void cache_sums_clear(cache_sums *sums) {
  UNROLL for (size_t k = 0; k < 4; k++) {
    UNROLL for (size_t half = 0; half < 2; half++) {
      sums->upper[half][k] = sums->lower[half][k] = _mm512_setzero_si512();
    }
  }
}

/// Four positions' numbers for the lower half of a register, those of the next four for the upper one.
INLINE __m512i cache_weights_of(const int8_t *numbers) {
  int32_t first, next;
  memcpy(&first, numbers, sizeof first);
  memcpy(&next, numbers + 4, sizeof next);
  return _mm512_mask_set1_epi32(_mm512_set1_epi32(first), 0xff00, next);
}

/// Adds the codes of 16 positions times weights `first` ... of these.
INLINE void cache_sums_add(cache_sums *sums, const uint8_t *codes, size_t stride,
                           const cache_numbers *weights, size_t first) {
  UNROLL for (size_t p = 0; p < 16; p += 8, codes += 8 * stride) {
    const __m512i a = cache_load(codes, stride), b = cache_load(codes + stride, stride);
    const __m512i c = cache_load(codes + 2 * stride, stride), d = cache_load(codes + 3 * stride, stride);
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    const __m512i by_code[4] = {_mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
                                _mm512_unpacklo_epi16(ab_high, cd_high),
                                _mm512_unpackhi_epi16(ab_high, cd_high)};
    const __m512i upper = cache_weights_of(weights->upper + first + p);
    const __m512i lower = cache_weights_of(weights->lower + first + p);
    UNROLL for (size_t k = 0; k < 4; k++) {
      const __m512i low = cache_low(by_code[k]), high = cache_high(by_code[k]);
      sums->upper[0][k] = _mm512_dpbusd_epi32(sums->upper[0][k], low, upper);
      sums->lower[0][k] = _mm512_dpbusd_epi32(sums->lower[0][k], low, lower);
      sums->upper[1][k] = _mm512_dpbusd_epi32(sums->upper[1][k], high, upper);
      sums->lower[1][k] = _mm512_dpbusd_epi32(sums->lower[1][k], high, lower);
    }
  }
}

/// The sums in the order of codes: those of the bytes' low halves, then those of their high halves.
INLINE void cache_sums_floats(const cache_sums *sums, float floats[CACHE_CODES]) {
  UNROLL for (size_t half = 0; half < 2; half++) {
    __m512i all[4], of_two[2];
    UNROLL for (size_t k = 0; k < 4; k++) {
      all[k] = _mm512_add_epi32(_mm512_slli_epi32(sums->upper[half][k], 8), sums->lower[half][k]);
    }
    UNROLL for (size_t k = 0; k < 2; k++) {
      of_two[k] = _mm512_add_epi32(_mm512_shuffle_i32x4(all[2 * k], all[2 * k + 1], 0x44),
                                   _mm512_shuffle_i32x4(all[2 * k], all[2 * k + 1], 0xee));
    }
    const __m512i first = _mm512_shuffle_i32x4(of_two[0], of_two[1], 0x88);
    const __m512i second = _mm512_shuffle_i32x4(of_two[0], of_two[1], 0xdd);
    _mm512_storeu_ps(floats + 32 * half, _mm512_cvtepi32_ps(first));
    _mm512_storeu_ps(floats + 32 * half + 16, _mm512_cvtepi32_ps(second));
  }
}
