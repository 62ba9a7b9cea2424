// Eight halves in a register, and the 8 x 8 transpose that packing and conversion are built from. The same
// for AVX2 and AVX-512: a transpose is bound by shuffles of 16 bytes, which wider registers do not make
// cheaper.

typedef __m128i half8;

INLINE half8 half8_load(const tandem_half *p) { return _mm_loadu_si128((const __m128i *)p); }
INLINE void half8_store(tandem_half *p, half8 v) { _mm_storeu_si128((__m128i *)p, v); }
INLINE void half8_store_floats(float *p, half8 v) { _mm256_storeu_ps(p, _mm256_cvtph_ps(v)); }

INLINE void half8_transpose(half8 v[8]) {
  __m128i a0 = _mm_unpacklo_epi16(v[0], v[1]), a1 = _mm_unpackhi_epi16(v[0], v[1]);
  __m128i a2 = _mm_unpacklo_epi16(v[2], v[3]), a3 = _mm_unpackhi_epi16(v[2], v[3]);
  __m128i a4 = _mm_unpacklo_epi16(v[4], v[5]), a5 = _mm_unpackhi_epi16(v[4], v[5]);
  __m128i a6 = _mm_unpacklo_epi16(v[6], v[7]), a7 = _mm_unpackhi_epi16(v[6], v[7]);
  __m128i b0 = _mm_unpacklo_epi32(a0, a2), b1 = _mm_unpackhi_epi32(a0, a2);
  __m128i b2 = _mm_unpacklo_epi32(a1, a3), b3 = _mm_unpackhi_epi32(a1, a3);
  __m128i b4 = _mm_unpacklo_epi32(a4, a6), b5 = _mm_unpackhi_epi32(a4, a6);
  __m128i b6 = _mm_unpacklo_epi32(a5, a7), b7 = _mm_unpackhi_epi32(a5, a7);
  v[0] = _mm_unpacklo_epi64(b0, b4), v[1] = _mm_unpackhi_epi64(b0, b4);
  v[2] = _mm_unpacklo_epi64(b1, b5), v[3] = _mm_unpackhi_epi64(b1, b5);
  v[4] = _mm_unpacklo_epi64(b2, b6), v[5] = _mm_unpackhi_epi64(b2, b6);
  v[6] = _mm_unpacklo_epi64(b3, b7), v[7] = _mm_unpackhi_epi64(b3, b7);
}

/// Writes a cache line past the caches: both lines' addresses are multiples of 64. `lines_written` orders
/// such writes before later ones.
INLINE void line_write(void *to, const void *from) {
  UNROLL for (size_t i = 0; i < 4; i++)
      _mm_stream_si128((__m128i *)to + i, _mm_load_si128((const __m128i *)from + i));
}
INLINE void lines_written(void) { _mm_sfence(); }
