// y[r, o] = activation(bias[o] + sum over i of x[r, i] * W[o, i]), for many rows.
//
// The scheme of BLIS (Van Zee and van de Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS
// Functionality"): a block of weights is converted into panels [input, column] in the L2 cache; a panel stays
// in the L1 cache while panels of activations pass by it; the inner tile lives in registers. y carries the
// sums from one block of inputs to the next.

#define GEMM_COLUMNS (GEMM_VECTORS * VEC_WIDTH)
#define GEMM_BLOCK_INPUTS 256
#define GEMM_BLOCK_OUTPUTS 256
#define GEMM_SCRATCH_COUNT (GEMM_BLOCK_INPUTS * GEMM_BLOCK_OUTPUTS)
// Activations of so many rows and a block of inputs stay in the L2 cache beside the weights.
#define GEMM_BLOCK_ROWS (GEMM_ROWS * (96 / GEMM_ROWS))

// Activations: x[r, i] of panel p is at x + p * panel_stride + r * row_stride + i * input_stride.
typedef struct {
  const float *x;
  size_t panel_stride, row_stride, input_stride;
} gemm_rows;

static void pack_rows(const float *x, size_t x_stride, size_t rows, size_t inputs, float *packed) {
  for (size_t first = 0; first < rows; first += GEMM_ROWS, packed += inputs * GEMM_ROWS) {
    const size_t count = smaller(GEMM_ROWS, rows - first);
    const float *panel = x + first * x_stride;
    if (count == GEMM_ROWS) {
      for (size_t i = 0; i < inputs; i++) {
        UNROLL for (size_t r = 0; r < GEMM_ROWS; r++) packed[i * GEMM_ROWS + r] = panel[r * x_stride + i];
      }
    } else {
      for (size_t i = 0; i < inputs; i++) {
        for (size_t r = 0; r < GEMM_ROWS; r++) {
          packed[i * GEMM_ROWS + r] = r < count ? panel[r * x_stride + i] : 0;
        }
      }
    }
  }
}

// W[o, i] = weights[i * stride + o]: a panel's rows are rows of the weights.
static void gemm_pack_transposed(const tandem_half *weights, size_t stride, size_t inputs, size_t outputs,
                                 float *packed) {
  for (size_t o = 0; o < outputs; o += GEMM_COLUMNS, packed += inputs * GEMM_COLUMNS) {
    const size_t columns = smaller(GEMM_COLUMNS, outputs - o);
    for (size_t i = 0; i < inputs; i++) {
      const tandem_half *row = weights + i * stride + o;
      float *to = packed + i * GEMM_COLUMNS;
      if (columns == GEMM_COLUMNS) {
        UNROLL for (size_t c = 0; c < GEMM_COLUMNS; c += VEC_WIDTH) vec_store(to + c, vec_load_half(row + c));
      } else {
        for (size_t c = 0; c < GEMM_COLUMNS; c += VEC_WIDTH) {
          vec v = c + VEC_WIDTH <= columns ? vec_load_half(row + c)
                  : c < columns            ? vec_load_half_part(row + c, columns - c)
                                           : vec_zero();
          vec_store(to + c, v);
        }
      }
    }
  }
}

// Eight columns of a panel, or `columns` fewer, the others zero: W[o, i] = weights[o * stride + i].
INLINE void gemm_pack_eight_columns(const tandem_half *weights, size_t stride, size_t inputs, size_t columns,
                                    float *packed) {
  size_t i = 0;
  if (columns == 8) {
    for (; i + 8 <= inputs; i += 8) {
      half8 block[8];
      UNROLL for (size_t c = 0; c < 8; c++) block[c] = half8_load(weights + c * stride + i);
      half8_transpose(block);
      UNROLL for (size_t k = 0; k < 8; k++) half8_store_floats(packed + (i + k) * GEMM_COLUMNS, block[k]);
    }
  }
  for (; i < inputs; i++) {
    tandem_half column[8] = {0};
    for (size_t c = 0; c < columns; c++) column[c] = weights[c * stride + i];
    half8_store_floats(packed + i * GEMM_COLUMNS, half8_load(column));
  }
}

static void gemm_pack(const tandem_half *weights, size_t stride, size_t inputs, size_t outputs,
                      float *packed) {
  for (size_t o = 0; o < outputs; o += GEMM_COLUMNS, packed += inputs * GEMM_COLUMNS) {
    for (size_t c = 0; c < GEMM_COLUMNS; c += 8) {
      size_t columns = o + c < outputs ? smaller(8, outputs - o - c) : 0;
      gemm_pack_eight_columns(weights + (columns ? (o + c) * stride : 0), stride, inputs, columns,
                              packed + c);
    }
  }
}

// sums[r, c] over one panel of activations and one of weights; added to y or stored.
INLINE void gemm_tile(const float *x, size_t row_stride, size_t input_stride, const float *panel,
                      size_t inputs, float *y, size_t y_stride, int accumulate) {
  vec sums[GEMM_ROWS][GEMM_VECTORS];
  UNROLL for (size_t r = 0; r < GEMM_ROWS; r++) {
    UNROLL for (size_t v = 0; v < GEMM_VECTORS; v++) sums[r][v] = vec_zero();
  }
  for (size_t i = 0; i < inputs; i++, x += input_stride, panel += GEMM_COLUMNS) {
    vec weights[GEMM_VECTORS];
    UNROLL for (size_t v = 0; v < GEMM_VECTORS; v++) weights[v] = vec_load(panel + v * VEC_WIDTH);
    UNROLL for (size_t r = 0; r < GEMM_ROWS; r++) {
      vec activation = vec_set1(x[r * row_stride]);
      UNROLL for (size_t v = 0; v < GEMM_VECTORS; v++) sums[r][v] =
          vec_fma(weights[v], activation, sums[r][v]);
    }
  }
  UNROLL for (size_t r = 0; r < GEMM_ROWS; r++) {
    UNROLL for (size_t v = 0; v < GEMM_VECTORS; v++) {
      float *to = y + r * y_stride + v * VEC_WIDTH;
      vec_store(to, accumulate ? vec_add(vec_load(to), sums[r][v]) : sums[r][v]);
    }
  }
}

// A tile of activations that may be packed or not, onto `rows` x `columns` of y.
static void gemm_tile_onto(const gemm_rows *from, const float *x, const float *panel, size_t inputs, float *y,
                           size_t y_stride, size_t rows, size_t columns, int accumulate) {
  _Alignas(CACHE_LINE) float copy[GEMM_ROWS * GEMM_BLOCK_INPUTS];
  _Alignas(CACHE_LINE) float tile[GEMM_ROWS * GEMM_COLUMNS];
  const int whole = rows == GEMM_ROWS && columns == GEMM_COLUMNS;
  float *onto = whole ? y : tile;
  size_t onto_stride = whole ? y_stride : GEMM_COLUMNS;
  if (from->row_stride == 1) {
    gemm_tile(x, 1, GEMM_ROWS, panel, inputs, onto, onto_stride, whole && accumulate);
  } else if (rows == GEMM_ROWS) {
    gemm_tile(x, from->row_stride, 1, panel, inputs, onto, onto_stride, whole && accumulate);
  } else {
    pack_rows(x, from->row_stride, rows, inputs, copy);
    gemm_tile(copy, 1, GEMM_ROWS, panel, inputs, onto, onto_stride, 0);
  }
  if (whole) return;
  for (size_t r = 0; r < rows; r++) {
    for (size_t c = 0; c < columns; c++) {
      float sum = tile[r * GEMM_COLUMNS + c];
      y[r * y_stride + c] = accumulate ? y[r * y_stride + c] + sum : sum;
    }
  }
}

// One block of packed weights times all rows.
static void gemm_block(const gemm_rows *from, const float *packed, size_t rows, size_t inputs, size_t outputs,
                       float *y, size_t y_stride, int accumulate) {
  for (size_t first = 0; first < rows; first += GEMM_BLOCK_ROWS) {
    const size_t end = smaller(rows, first + GEMM_BLOCK_ROWS);
    for (size_t o = 0; o < outputs; o += GEMM_COLUMNS) {
      for (size_t r = first; r < end; r += GEMM_ROWS) {
        gemm_tile_onto(from, from->x + r / GEMM_ROWS * from->panel_stride, packed + o * inputs, inputs,
                       y + r * y_stride + o, y_stride, smaller(GEMM_ROWS, end - r),
                       smaller(GEMM_COLUMNS, outputs - o), accumulate);
      }
    }
  }
}

// `gemm` with activations that may be packed or not, adding to y where `accumulate` is set.
static void gemm_from(gemm_rows from, const tandem_gemm *a, int accumulate) {
  const float *x = from.x;
  for (size_t o = 0; o < a->outputs; o += GEMM_BLOCK_OUTPUTS) {
    const size_t outputs = smaller(GEMM_BLOCK_OUTPUTS, a->outputs - o);
    for (size_t i = 0; i < a->inputs; i += GEMM_BLOCK_INPUTS) {
      const size_t inputs = smaller(GEMM_BLOCK_INPUTS, a->inputs - i);
      if (a->transposed) {
        gemm_pack_transposed(a->weights + i * a->weights_stride + o, a->weights_stride, inputs, outputs,
                             a->scratch);
      } else {
        gemm_pack(a->weights + o * a->weights_stride + i, a->weights_stride, inputs, outputs, a->scratch);
      }
      from.x = x + i * from.input_stride;
      gemm_block(&from, a->scratch, a->rows, inputs, outputs, a->y + o, a->y_stride, accumulate || i != 0);
    }
    for (size_t r = 0; r < a->rows; r++) {
      add_bias_and_activate(a->y + r * a->y_stride + o, a->bias ? a->bias + o : NULL, outputs, a->activation);
    }
  }
}

static void gemm(const tandem_gemm *a) {
  gemm_rows from = {a->packed_x, a->inputs * GEMM_ROWS, 1, GEMM_ROWS};
  gemm_from(from, a, 0);
}
