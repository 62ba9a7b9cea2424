// Codes of 16 positions of a cache in 4 bits, 32 bytes of each: their products with a query, and their sums.
// For AVX2, and for AVX-512 without products of bytes.
//
// A 16-bit lane has two bytes, so four codes: code k is half k % 2 of byte k / 2. Of a register, code k of
// each lane is had by one shift and one mask.

typedef struct {
  _Alignas(32) int16_t values[CACHE_CODES];
} cache_numbers;

/// A query's numbers, in the order of lanes for each of a lane's codes.
INLINE void cache_query(const int16_t numbers[CACHE_CODES], cache_numbers *query) {
  for (size_t k = 0; k < 4; k++) {
    for (size_t j = 0; j < 16; j++) query->values[16 * k + j] = numbers[32 * (k % 2) + 2 * j + k / 2];
  }
}
INLINE void cache_weights(const int16_t numbers[CACHE_POSITIONS], cache_numbers *weights) {
  memcpy(weights->values, numbers, sizeof weights->values);
}

INLINE __m256i cache_load(const uint8_t *codes) { return _mm256_loadu_si256((const __m256i *)codes); }
/// Code k of each lane.
INLINE __m256i cache_code(__m256i lanes, int k) {
  return _mm256_and_si256(_mm256_srli_epi16(lanes, 4 * k), _mm256_set1_epi16(15));
}

/// dots[p] = the codes of position p times the query's numbers.
INLINE void cache_dots(const uint8_t *codes, size_t stride, const cache_numbers *query, float dots[16]) {
  __m256i numbers[4];
  UNROLL for (size_t k = 0; k < 4; k++) {
    numbers[k] = _mm256_load_si256((const __m256i *)(query->values + 16 * k));
  }
  UNROLL for (size_t first = 0; first < 16; first += 8) {
    __m256i of_four[2];
    UNROLL for (size_t four = 0; four < 2; four++) {
      __m256i sums[4];
      UNROLL for (size_t p = 0; p < 4; p++) {
        const __m256i lanes = cache_load(codes + (first + 4 * four + p) * stride);
        sums[p] = _mm256_madd_epi16(cache_code(lanes, 0), numbers[0]);
        UNROLL for (int k = 1; k < 4; k++) {
          sums[p] = _mm256_add_epi32(sums[p], _mm256_madd_epi16(cache_code(lanes, k), numbers[k]));
        }
      }
      of_four[four] =
          _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
    }
    const __m256i sum = _mm256_add_epi32(_mm256_permute2x128_si256(of_four[0], of_four[1], 0x20),
                                         _mm256_permute2x128_si256(of_four[0], of_four[1], 0x31));
    _mm256_storeu_ps(dots + first, _mm256_cvtepi32_ps(sum));
  }
}

/// For each of the 64 codes the sum over positions: bytes 0 ... 7 and 16 ... 23 in `low`, the others in
/// `high`, by their place in a lane.
typedef struct {
  __m256i low[4], high[4];
} cache_sums;

INLINE void cache_sums_clear(cache_sums *sums) {
  UNROLL for (size_t k = 0; k < 4; k++) sums->low[k] = sums->high[k] = _mm256_setzero_si256();
}

/// Adds the codes of 16 positions times weights `first` ... of these.
INLINE void cache_sums_add(cache_sums *sums, const uint8_t *codes, size_t stride,
                           const cache_numbers *weights, size_t first) {
  for (size_t p = 0; p < 16; p += 2, codes += 2 * stride) {
    int32_t pair;
    memcpy(&pair, weights->values + first + p, sizeof pair);
    const __m256i weight = _mm256_set1_epi32(pair);
    const __m256i even = cache_load(codes), odd = cache_load(codes + stride);
    const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
    UNROLL for (int k = 0; k < 4; k++) {
      sums->low[k] = _mm256_add_epi32(sums->low[k], _mm256_madd_epi16(cache_code(low, k), weight));
      sums->high[k] = _mm256_add_epi32(sums->high[k], _mm256_madd_epi16(cache_code(high, k), weight));
    }
  }
}

/// The sums in the order of codes: those of the bytes' low halves, then those of their high halves.
INLINE void cache_sums_floats(const cache_sums *sums, float floats[CACHE_CODES]) {
  UNROLL for (size_t half = 0; half < 2; half++) {
    UNROLL for (size_t side = 0; side < 2; side++) {
      const __m256i *of_lane = side ? sums->high : sums->low;
      const __m256i low = _mm256_unpacklo_epi32(of_lane[half], of_lane[half + 2]);
      const __m256i high = _mm256_unpackhi_epi32(of_lane[half], of_lane[half + 2]);
      float *to = floats + 32 * half + 8 * side;
      _mm256_storeu_ps(to, _mm256_cvtepi32_ps(_mm256_permute2x128_si256(low, high, 0x20)));
      _mm256_storeu_ps(to + 16, _mm256_cvtepi32_ps(_mm256_permute2x128_si256(low, high, 0x31)));
    }
  }
}
