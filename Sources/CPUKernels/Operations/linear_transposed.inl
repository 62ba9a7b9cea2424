// y[r, o] = sum over i of x[r, i] * weights[i, o], for few rows.
//
// y passes through the cache once for each block of inputs, while the weights are read in the order of
// memory, a few rows side by side, as streams for the hardware's prefetcher. Whether asking ahead as well
// pays is the processor's matter, TRANSPOSED_STREAMS_AHEAD and TRANSPOSED_TILED_AHEAD (bytes, or 0): on Zen
// 3, 1 KB took the speed of one row from 0.8 of the plain read loop's to 0.5.
//
// One or two rows keep a block's activations in registers and stream over the outputs. More rows take tiles,
// `rows` x `vectors` accumulators that are carried over the block.

#define TRANSPOSED_STREAMS 8
// Columns of weights that all tiles of rows pass over before the next: they stay in the L1 cache.
#define TRANSPOSED_COLUMNS 192

typedef struct {
  const float *x;
  size_t x_stride;
  const tandem_half *weights;
  size_t weights_stride;
  float *y;
  size_t y_stride;
  size_t inputs;
  int accumulate;
} transposed_tile;

// `part` is the count of columns of a single last vector, or 0 where all vectors are whole.
INLINE void transposed_tile_run(const transposed_tile *tile, const size_t rows, const size_t vectors,
                                const size_t part) {
  vec sums[8][TRANSPOSED_TILE_ROWS];
  UNROLL for (size_t r = 0; r < rows; r++) {
    UNROLL for (size_t v = 0; v < vectors; v++) {
      const float *y = tile->y + r * tile->y_stride + v * VEC_WIDTH;
      sums[v][r] = !tile->accumulate ? vec_zero() : part ? vec_load_part(y, part) : vec_load(y);
    }
  }
  const tandem_half *w = tile->weights;
  for (size_t i = 0; i < tile->inputs; i++, w += tile->weights_stride) {
    vec weights[8];
    if (TRANSPOSED_TILED_AHEAD) {
      const size_t vectors_per_line = HALVES_PER_LINE / VEC_WIDTH;
      UNROLL for (size_t v = 0; v < vectors; v += vectors_per_line) {
        prefetch_l1(w + v * VEC_WIDTH, TRANSPOSED_TILED_AHEAD);
      }
    }
    UNROLL for (size_t v = 0; v < vectors; v++) {
      weights[v] = part ? vec_load_half_part(w, part) : vec_load_half(w + v * VEC_WIDTH);
    }
    UNROLL for (size_t r = 0; r < rows; r++) {
      vec activation = vec_set1(tile->x[r * tile->x_stride + i]);
      UNROLL for (size_t v = 0; v < vectors; v++) sums[v][r] = vec_fma(weights[v], activation, sums[v][r]);
      UNROLL for (size_t v = 0; v < vectors; v++) vec_settle(&sums[v][r]);
    }
  }
  UNROLL for (size_t r = 0; r < rows; r++) {
    UNROLL for (size_t v = 0; v < vectors; v++) {
      float *y = tile->y + r * tile->y_stride + v * VEC_WIDTH;
      if (part) {
        vec_store_part(y, sums[v][r], part);
      } else {
        vec_store(y, sums[v][r]);
      }
    }
  }
}

INLINE void transposed_tile_advance(transposed_tile *tile, size_t columns) {
  tile->weights += columns;
  tile->y += columns;
}

// All columns of a block of inputs, straight from the halves.
INLINE void transposed_columns(transposed_tile tile, size_t outputs, const size_t rows) {
  const size_t most = smaller(8, TILE_VECTORS / rows);
  size_t o = 0;
  for (; o + most * VEC_WIDTH <= outputs; o += most * VEC_WIDTH) {
    transposed_tile_run(&tile, rows, most, 0);
    transposed_tile_advance(&tile, most * VEC_WIDTH);
  }
  if (most > 4 && o + 4 * VEC_WIDTH <= outputs) {
    transposed_tile_run(&tile, rows, 4, 0);
    transposed_tile_advance(&tile, 4 * VEC_WIDTH);
    o += 4 * VEC_WIDTH;
  }
  if (most > 2 && o + 2 * VEC_WIDTH <= outputs) {
    transposed_tile_run(&tile, rows, 2, 0);
    transposed_tile_advance(&tile, 2 * VEC_WIDTH);
    o += 2 * VEC_WIDTH;
  }
  for (; o + VEC_WIDTH <= outputs; o += VEC_WIDTH) {
    transposed_tile_run(&tile, rows, 1, 0);
    transposed_tile_advance(&tile, VEC_WIDTH);
  }
  if (o < outputs) transposed_tile_run(&tile, rows, 1, outputs - o);
}

#define TRANSPOSED_TILES(rows)                                                  \
  TILE transposed_columns_##rows(const transposed_tile *tile, size_t outputs) { \
    transposed_columns(*tile, outputs, rows);                                   \
  }
TRANSPOSED_TILES(1)
TRANSPOSED_TILES(2)
TRANSPOSED_TILES(3)
TRANSPOSED_TILES(4)
#if TRANSPOSED_TILE_ROWS == 8
TRANSPOSED_TILES(5)
TRANSPOSED_TILES(6)
TRANSPOSED_TILES(7)
TRANSPOSED_TILES(8)
#endif

// [rows - 1]
static void (*const transposed_columns_of[TRANSPOSED_TILE_ROWS])(const transposed_tile *, size_t) = {
    transposed_columns_1, transposed_columns_2, transposed_columns_3, transposed_columns_4,
#if TRANSPOSED_TILE_ROWS == 8
    transposed_columns_5, transposed_columns_6, transposed_columns_7, transposed_columns_8,
#endif
};

// y[o] (+)= sum over `streams` inputs of x[i] * weights[i, o].
INLINE void transposed_stream(const transposed_tile *tile, size_t outputs, const size_t rows,
                              const size_t streams) {
  vec activations[2][8];
  const tandem_half *w[8];
  UNROLL for (size_t i = 0; i < streams; i++) {
    w[i] = tile->weights + i * tile->weights_stride;
    UNROLL for (size_t r = 0; r < rows; r++) activations[r][i] = vec_set1(tile->x[r * tile->x_stride + i]);
  }
  float *y[2] = {tile->y, tile->y + (rows - 1) * tile->y_stride};
  const int accumulate = tile->accumulate;
  size_t o = 0;
  for (; o + VEC_WIDTH <= outputs; o += VEC_WIDTH) {
    vec sums[2];
    if (TRANSPOSED_STREAMS_AHEAD && o % HALVES_PER_LINE == 0) {
      UNROLL for (size_t i = 0; i < streams; i++) prefetch_l1(w[i] + o, TRANSPOSED_STREAMS_AHEAD);
    }
    UNROLL for (size_t r = 0; r < rows; r++) sums[r] = accumulate ? vec_load(y[r] + o) : vec_zero();
    UNROLL for (size_t i = 0; i < streams; i++) {
      vec weights = vec_load_half(w[i] + o);
      UNROLL for (size_t r = 0; r < rows; r++) sums[r] = vec_fma(weights, activations[r][i], sums[r]);
    }
    UNROLL for (size_t r = 0; r < rows; r++) vec_store(y[r] + o, sums[r]);
  }
  if (o < outputs) {
    const size_t part = outputs - o;
    UNROLL for (size_t r = 0; r < rows; r++) {
      vec sum = accumulate ? vec_load_part(y[r] + o, part) : vec_zero();
      UNROLL for (size_t i = 0; i < streams; i++) {
        sum = vec_fma(vec_load_half_part(w[i] + o, part), activations[r][i], sum);
      }
      vec_store_part(y[r] + o, sum, part);
    }
  }
}

TILE transposed_stream_1(const transposed_tile *tile, size_t outputs) {
  transposed_stream(tile, outputs, 1, 8);
}
TILE transposed_stream_2(const transposed_tile *tile, size_t outputs) {
  transposed_stream(tile, outputs, 2, 4);
}

// A block of inputs for any number of rows.
static void transposed_block(const transposed_tile *block, size_t outputs, size_t rows) {
  const size_t tile_rows = divided_up(rows, divided_up(rows, TRANSPOSED_TILE_ROWS));
  const size_t columns = rows <= TRANSPOSED_TILE_ROWS ? outputs : TRANSPOSED_COLUMNS;
  for (size_t o = 0; o < outputs; o += columns) {
    for (size_t r = 0; r < rows; r += tile_rows) {
      transposed_tile tile = *block;
      tile.x += r * tile.x_stride;
      tile.weights += o;
      tile.y += r * tile.y_stride + o;
      transposed_columns_of[smaller(tile_rows, rows - r) - 1](&tile, smaller(columns, outputs - o));
    }
  }
}

static void linear_transposed(const tandem_linear_transposed *a) {
  // The sum over nothing: threads that have no part of the inputs add zeros to a block's sum.
  for (size_t r = 0; a->inputs == 0 && !a->accumulate && r < a->rows; r++) {
    for (size_t o = 0; o < a->outputs; o++) a->y[r * a->y_stride + o] = 0;
  }
  const size_t inputs = a->rows > 2 ? TRANSPOSED_TILED_INPUTS : TRANSPOSED_STREAMS / a->rows;
  for (size_t i = 0; i < a->inputs; i += inputs) {
    const transposed_tile block = {.x = a->x + i,
                                   .x_stride = a->x_stride,
                                   .weights = a->weights + i * a->outputs,
                                   .weights_stride = a->outputs,
                                   .y = a->y,
                                   .y_stride = a->y_stride,
                                   .inputs = smaller(inputs, a->inputs - i),
                                   .accumulate = a->accumulate || i != 0};
    if (a->rows <= 2 && block.inputs == inputs) {
      (a->rows == 1 ? transposed_stream_1 : transposed_stream_2)(&block, a->outputs);
    } else {
      transposed_block(&block, a->outputs, a->rows);
    }
  }
}
