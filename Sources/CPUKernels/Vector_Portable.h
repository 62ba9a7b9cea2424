// Four floats in whatever the compiler has for them: the reference for every processor without its own
// header.

typedef float vec __attribute__((ext_vector_type(4)));
typedef int32_t vec_bits __attribute__((ext_vector_type(4)));
#define VEC_WIDTH 4

#define LINEAR_TILE_ROWS 4
#define LINEAR_STREAMS 4
#define LINEAR_STREAMS_AHEAD 0
#define TRANSPOSED_STREAMS_AHEAD 0
#define TRANSPOSED_TILED_INPUTS 8
#define TRANSPOSED_TILED_AHEAD 0
#define TRANSPOSED_TILE_ROWS 4
#define TILE_VECTORS 8
#define GEMM_ROWS 4
#define GEMM_VECTORS 2
#define QUANTIZED_ROWS 4
#define QUANTIZED_AHEAD 0

INLINE vec vec_zero(void) { return (vec)0.0f; }
INLINE vec vec_set1(float a) { return (vec)a; }
INLINE vec vec_load(const float *p) {
  vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
INLINE void vec_store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec vec_add(vec a, vec b) { return a + b; }
INLINE vec vec_sub(vec a, vec b) { return a - b; }
INLINE vec vec_mul(vec a, vec b) { return a * b; }
INLINE vec vec_div(vec a, vec b) { return a / b; }
INLINE vec vec_select(vec_bits mask, vec a, vec b) {
  return (vec)((mask & (vec_bits)a) | (~mask & (vec_bits)b));
}
INLINE vec vec_max(vec a, vec b) { return vec_select(a > b, a, b); }
INLINE vec vec_sqrt(vec a) { return __builtin_elementwise_sqrt(a); }
INLINE vec vec_abs(vec a) { return (vec)((vec_bits)a & 0x7fffffff); }
INLINE vec vec_fma(vec a, vec b, vec c) { return a * b + c; }

/// Only a hint, see the wider vectors.
INLINE void vec_settle(vec *a) { (void)a; }

/// a * 2^n, where n stands in the low bits of t.
INLINE vec vec_scale(vec a, vec t) { return (vec)((vec_bits)a + ((vec_bits)t << 23)); }

// The first `count` lanes, fewer than the width; the others are zero and their memory is not touched.
INLINE vec vec_load_part(const float *p, size_t count) {
  vec v = vec_zero();
  for (size_t i = 0; i < count; i++) v[i] = p[i];
  return v;
}
INLINE void vec_store_part(float *p, vec v, size_t count) {
  for (size_t i = 0; i < count; i++) p[i] = v[i];
}

typedef uint16_t vec_halves __attribute__((ext_vector_type(4)));
INLINE vec_halves halves_load(const void *p) {
  vec_halves v;
  memcpy(&v, p, sizeof v);
  return v;
}
INLINE vec_halves halves_load_part(const void *p, size_t count) {
  vec_halves v = 0;
  for (size_t i = 0; i < count; i++) {
    tandem_half lane;
    memcpy(&lane, (const char *)p + 2 * i, 2);
    v[i] = lane;
  }
  return v;
}

// A half's exponent and fraction, moved to a float's place and multiplied by 2^112, are its value, subnormal
// or not; only the exponent of infinities and NaNs has to be put in by hand.
INLINE vec vec_from_halves(vec_halves h) {
  vec_bits bits = __builtin_convertvector(h, vec_bits);
  vec_bits magnitude = (bits & 0x7fff) << 13;
  vec_bits special = magnitude >= (0x7c00 << 13);
  vec value = (vec)magnitude * 0x1p112f;
  value = vec_select(special, (vec)(magnitude | 0x7f800000), value);
  return (vec)((vec_bits)value | ((bits & 0x8000) << 16));
}

// Normal results: adds half a unit in the last place, less one where the fraction is even, and truncates.
// Subnormal ones: adding 0.5 makes the float addition itself round to a multiple of 2^-24.
INLINE vec_halves halves_from_vec(vec v) {
  vec_bits bits = (vec_bits)v;
  vec_bits magnitude = bits & 0x7fffffff;
  vec_bits normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  vec_bits subnormal = (vec_bits)((vec)magnitude + 0.5f) - 0x3f000000;
  vec_bits nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  vec_bits is_small = magnitude < (113 << 23);
  vec_bits is_large = magnitude >= 0x477ff000;
  vec_bits is_nan = magnitude > 0x7f800000;
  vec_bits half = (is_small & subnormal) | (~is_small & normal);
  half = (is_large & 0x7c00) | (~is_large & half);
  half = (is_nan & nan) | (~is_nan & half);
  return __builtin_convertvector(half | ((bits >> 16) & 0x8000), vec_halves);
}

INLINE vec vec_load_half(const tandem_half *p) { return vec_from_halves(halves_load(p)); }
INLINE vec vec_load_half_part(const tandem_half *p, size_t count) {
  return vec_from_halves(halves_load_part(p, count));
}
/// The first and the second half of each pair.
INLINE void vec_load_half_pairs(const uint32_t *p, vec *first, vec *second) {
  tandem_half pairs[8];
  memcpy(pairs, p, sizeof pairs);
  *first = vec_from_halves((vec_halves){pairs[0], pairs[2], pairs[4], pairs[6]});
  *second = vec_from_halves((vec_halves){pairs[1], pairs[3], pairs[5], pairs[7]});
}
INLINE void vec_store_half(tandem_half *p, vec v) {
  vec_halves h = halves_from_vec(v);
  memcpy(p, &h, sizeof h);
}
INLINE void vec_store_half_part(tandem_half *p, vec v, size_t count) {
  vec_halves h = halves_from_vec(v);
  for (size_t i = 0; i < count; i++) p[i] = h[i];
}

INLINE vec vec_from_bfloats(vec_halves h) { return (vec)(__builtin_convertvector(h, vec_bits) << 16); }
INLINE vec vec_load_bfloat(const void *p) { return vec_from_bfloats(halves_load(p)); }
INLINE vec vec_load_bfloat_part(const void *p, size_t count) {
  return vec_from_bfloats(halves_load_part(p, count));
}

INLINE float vec_sum(vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }
/// sums[i] = the sum of v[i]'s lanes.
INLINE void vec_sum4(const vec v[4], float sums[4]) {
  for (size_t i = 0; i < 4; i++) sums[i] = vec_sum(v[i]);
}
INLINE float vec_max_lane(vec v) {
  float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
  return a > b ? a : b;
}

/// How many lanes are finite, yet round to an infinite half.
INLINE size_t vec_count_overflow(vec v) {
  vec_bits magnitude = (vec_bits)v & 0x7fffffff;
  vec_bits over = (magnitude >= 0x477ff000) & (magnitude < 0x7f800000);
  return (size_t) - (over[0] + over[1] + over[2] + over[3]);
}

typedef uint64_t words __attribute__((ext_vector_type(2)));
INLINE words words_zero(void) { return (words)0; }
INLINE words words_load(const void *p) {
  words v;
  memcpy(&v, p, sizeof v);
  return v;
}
INLINE words words_add(words a, words b) { return a + b; }
INLINE uint64_t words_sum(words a) { return a[0] + a[1]; }

// Eight halves, and the 8 x 8 transpose that packing and conversion are built from.
typedef uint16_t half8 __attribute__((ext_vector_type(8)));
INLINE half8 half8_load(const tandem_half *p) {
  half8 v;
  memcpy(&v, p, sizeof v);
  return v;
}
INLINE void half8_store(tandem_half *p, half8 v) { memcpy(p, &v, sizeof v); }
INLINE void half8_store_floats(float *p, half8 v) {
  vec_store(p, vec_from_halves(v.lo));
  vec_store(p + 4, vec_from_halves(v.hi));
}
INLINE void half8_transpose(half8 v[8]) {
  half8 t[8];
  UNROLL for (size_t i = 0; i < 8; i++) { UNROLL for (size_t j = 0; j < 8; j++) t[i][j] = v[j][i]; }
  UNROLL for (size_t i = 0; i < 8; i++) v[i] = t[i];
}

INLINE void line_write(void *to, const void *from) { memcpy(to, from, CACHE_LINE); }
INLINE void lines_written(void) {}

// Codes of quantized weights, and sums of them times activations, an output a lane. Activations are numbers
// of 16 bits.
#define QUANTIZED_BYTES 0
#define CODES_STRIDE 2
typedef uint32_t codes __attribute__((ext_vector_type(4)));
typedef vec_bits code_sum;
INLINE codes codes_load(const void *p) {
  codes c;
  memcpy(&c, p, sizeof c);
  return c;
}
INLINE code_sum code_sum_zero(void) { return (code_sum)0; }
INLINE vec code_sum_floats(code_sum sum) { return __builtin_convertvector(sum, vec); }
INLINE vec codes_floats(codes c, unsigned shift, uint32_t mask) {
  return __builtin_convertvector((vec_bits)(c >> shift & mask), vec);
}
/// Adds the codes in bits `shift` ... of bytes 0 and 2 of each word, times two activations.
INLINE code_sum codes_add_pair(code_sum sum, codes c, unsigned shift, uint32_t mask, const int8_t *x) {
  int16_t pair[2];
  memcpy(pair, x, sizeof pair);
  return sum + (vec_bits)(c >> shift & mask) * pair[0] + (vec_bits)(c >> (shift + 16) & mask) * pair[1];
}
INLINE code_sum codes_add4(code_sum sum, codes c, const int8_t *x) {
  sum = codes_add_pair(sum, c, 0, 15, x);
  sum = codes_add_pair(sum, c, 8, 15, x + 4);
  sum = codes_add_pair(sum, c, 4, 15, x + 8);
  return codes_add_pair(sum, c, 12, 15, x + 12);
}
INLINE code_sum codes_add8(code_sum sum, codes c, const int8_t *x) {
  return codes_add_pair(codes_add_pair(sum, c, 0, 255, x), c, 8, 255, x + 4);
}

// Codes of 16 positions of a cache in 4 bits, 32 bytes of each: their products with a query, and their sums.
typedef struct {
  int16_t values[CACHE_CODES];
} cache_numbers;
INLINE void cache_query(const int16_t numbers[CACHE_CODES], cache_numbers *query) {
  memcpy(query->values, numbers, sizeof query->values);
}
INLINE void cache_weights(const int16_t numbers[CACHE_POSITIONS], cache_numbers *weights) {
  memcpy(weights->values, numbers, sizeof weights->values);
}

/// dots[p] = the codes of position p times the query's numbers.
INLINE void cache_dots(const uint8_t *codes, size_t stride, const cache_numbers *query, float dots[16]) {
  for (size_t p = 0; p < 16; p++, codes += stride) {
    int32_t sum = 0;
    for (size_t b = 0; b < 32; b++) {
      sum += (codes[b] & 15) * query->values[b] + (codes[b] >> 4) * query->values[32 + b];
    }
    dots[p] = (float)sum;
  }
}

/// For each of the 64 codes the sum over positions: those of the bytes' low halves, then the high halves'.
typedef struct {
  int32_t of_code[CACHE_CODES];
} cache_sums;

INLINE void cache_sums_clear(cache_sums *sums) { *sums = (cache_sums){{0}}; }

/// Adds the codes of 16 positions times weights `first` ... of these.
INLINE void cache_sums_add(cache_sums *sums, const uint8_t *codes, size_t stride,
                           const cache_numbers *weights, size_t first) {
  for (size_t p = 0; p < 16; p++, codes += stride) {
    const int32_t weight = weights->values[first + p];
    for (size_t b = 0; b < 32; b++) {
      sums->of_code[b] += (codes[b] & 15) * weight;
      sums->of_code[32 + b] += (codes[b] >> 4) * weight;
    }
  }
}

/// The sums in the order of codes.
INLINE void cache_sums_floats(const cache_sums *sums, float floats[CACHE_CODES]) {
  for (size_t i = 0; i < CACHE_CODES; i++) floats[i] = (float)sums->of_code[i];
}
