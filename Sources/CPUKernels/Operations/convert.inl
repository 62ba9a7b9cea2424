// Conversions to and from fp16, rounding to nearest even.

static void float_from_half(const tandem_half *source, float *destination, size_t count) {
  size_t i = 0;
  for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) vec_store(destination + i, vec_load_half(source + i));
  if (i < count) vec_store_part(destination + i, vec_load_half_part(source + i, count - i), count - i);
}

static void half_from_float(const float *source, tandem_half *destination, size_t count) {
  size_t i = 0;
  for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) vec_store_half(destination + i, vec_load(source + i));
  if (i < count) vec_store_half_part(destination + i, vec_load_part(source + i, count - i), count - i);
}

INLINE size_t convert_size(tandem_scalar_type type) { return type == TANDEM_FLOAT32 ? 4 : 2; }

// One row of either wider type. `load` and `load_part` read a vector of it.
#define CONVERT_ROW(load, load_part, size)              \
  size_t overflows = 0, i = 0;                          \
  for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) {      \
    vec v = load(source + i * size);                    \
    overflows += vec_count_overflow(v);                 \
    vec_store_half(destination + i, v);                 \
  }                                                     \
  if (i < count) {                                      \
    vec v = load_part(source + i * size, count - i);    \
    overflows += vec_count_overflow(v);                 \
    vec_store_half_part(destination + i, v, count - i); \
  }                                                     \
  return overflows

INLINE vec convert_load_float(const char *p) { return vec_load((const float *)(const void *)p); }

INLINE vec convert_load_float_part(const char *p, size_t count) {
  return vec_load_part((const float *)(const void *)p, count);
}

INLINE size_t convert_row_of_bfloats(const char *source, tandem_half *destination, size_t count) {
  CONVERT_ROW(vec_load_bfloat, vec_load_bfloat_part, 2);
}

INLINE size_t convert_row_of_floats(const char *source, tandem_half *destination, size_t count) {
  CONVERT_ROW(convert_load_float, convert_load_float_part, 4);
}

INLINE size_t convert_row(const char *source, tandem_scalar_type type, tandem_half *destination,
                          size_t count) {
  switch (type) {
    case TANDEM_BFLOAT16:
      return convert_row_of_bfloats(source, destination, count);
    case TANDEM_FLOAT32:
      return convert_row_of_floats(source, destination, count);
    default:
      memcpy(destination, source, count * sizeof(tandem_half));
      return 0;
  }
}

// A transpose reads and writes whole cache lines: a square of 32 x 32 halves goes through a buffer in the L1
// cache, whose rows are one line and whose columns become one.
#define CONVERT_SQUARE HALVES_PER_LINE
// The buffer's rows are 16 bytes longer than a line, so that a column of it is spread over the cache sets.
#define CONVERT_STRIDE (CONVERT_SQUARE + 8)

static void convert_store_square(const tandem_half *square, tandem_half *destination, size_t stride,
                                 size_t rows, size_t columns) {
  if (rows < CONVERT_SQUARE || columns < CONVERT_SQUARE) {
    for (size_t c = 0; c < columns; c++) {
      for (size_t r = 0; r < rows; r++) destination[c * stride + r] = square[r * CONVERT_STRIDE + c];
    }
    return;
  }
  _Alignas(CACHE_LINE) tandem_half lines[CONVERT_SQUARE][HALVES_PER_LINE];
  for (size_t c = 0; c < CONVERT_SQUARE; c += 8) {
    UNROLL for (size_t r = 0; r < CONVERT_SQUARE; r += 8) {
      half8 block[8];
      UNROLL for (size_t k = 0; k < 8; k++) block[k] = half8_load(square + (r + k) * CONVERT_STRIDE + c);
      half8_transpose(block);
      UNROLL for (size_t k = 0; k < 8; k++) half8_store(&lines[c + k][r], block[k]);
    }
  }
  // Written past the caches, a line need not be read first, which would be half of the traffic.
  const int aligned = ((uintptr_t)destination | stride * sizeof(tandem_half)) % CACHE_LINE == 0;
  for (size_t c = 0; c < CONVERT_SQUARE; c++) {
    if (aligned) {
      line_write(destination + c * stride, lines[c]);
    } else {
      memcpy(destination + c * stride, lines[c], CACHE_LINE);
    }
  }
}

static size_t convert_transposed(const tandem_convert *a) {
  _Alignas(CACHE_LINE) tandem_half square[CONVERT_SQUARE * CONVERT_STRIDE];
  const size_t size = convert_size(a->source_type);
  const char *source = a->source;
  size_t overflows = 0;
  for (size_t r = 0; r < a->rows; r += CONVERT_SQUARE) {
    const size_t rows = smaller(CONVERT_SQUARE, a->rows - r);
    for (size_t c = 0; c < a->columns; c += CONVERT_SQUARE) {
      const size_t columns = smaller(CONVERT_SQUARE, a->columns - c);
      for (size_t k = 0; k < rows; k++) {
        const char *row = source + ((r + k) * a->source_stride + c) * size;
        overflows += convert_row(row, a->source_type, square + k * CONVERT_STRIDE, columns);
      }
      convert_store_square(square, a->destination + c * a->destination_stride + r, a->destination_stride,
                           rows, columns);
    }
  }
  return overflows;
}

static size_t convert(const tandem_convert *a) {
  if (a->transposed) return convert_transposed(a);
  const size_t size = convert_size(a->source_type);
  size_t overflows = 0;
  for (size_t r = 0; r < a->rows; r++) {
    overflows += convert_row((const char *)a->source + r * a->source_stride * size, a->source_type,
                             a->destination + r * a->destination_stride, a->columns);
  }
  return overflows;
}
