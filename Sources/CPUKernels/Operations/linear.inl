// y[r, o] = activation(bias[o] + sum over i of x[r, i] * weights[o, i]), for few rows.
//
// A tile is `rows` x `outputs` dot products over a block of inputs, in registers. Decode is bound by memory,
// and with eight rows by the multiply-adds too, so both have to overlap: while a group of outputs is
// computed, in any order, each tile asks for the same tile of the next group. Activations are packed step by
// step, [step, row, lane]: rows of a power-of-two stride would share the few ways of one cache set.

#define LINEAR_GROUP_ROWS 8
// Packed activations of a group of rows: they stay in the L2 cache, and a block of inputs of them in the L1
// cache.
#define LINEAR_PACKED_COUNT 16384
#define LINEAR_BLOCK_COUNT 4096
// Bytes of weights between what is used and what is asked for.
#define LINEAR_AHEAD 32768
// So few rows leave the asking to the hardware, which follows the four outputs of a tile as four streams.
// Whether asking helps them depends on the processor, and was not settled on the one this was tuned on.
#define LINEAR_ROWS_UNASKED 2
// With more rows than a group, weights are read again for each group: from the L2 cache, if this many outputs
// fit.
#define LINEAR_BLOCK_OUTPUTS 96

typedef struct {
  const float *x;  // packed
  const tandem_half *weights;
  size_t weights_stride;
  size_t inputs;
  float *y;
  size_t y_stride;
  int accumulate;
  // While input i is used, the line this many bytes from input i >> ahead_shift is asked for.
  size_t ahead;
  size_t ahead_shift;
} linear_tile;

INLINE size_t linear_tile_outputs(size_t rows) { return smaller(4, TILE_VECTORS / rows); }

INLINE void linear_tile_step(vec sums[4][LINEAR_TILE_ROWS], const vec weights[4], const float *x, size_t rows,
                             size_t outputs) {
  UNROLL for (size_t r = 0; r < rows; r++) {
    vec activation = vec_load(x + r * VEC_WIDTH);
    UNROLL for (size_t o = 0; o < outputs; o++) sums[o][r] = vec_fma(weights[o], activation, sums[o][r]);
    UNROLL for (size_t o = 0; o < outputs; o++) vec_settle(&sums[o][r]);
  }
}

INLINE void linear_tile_run(const linear_tile *tile, const size_t rows, const size_t outputs) {
  vec sums[4][LINEAR_TILE_ROWS];
  vec weights[4];
  UNROLL for (size_t o = 0; o < 4; o++) { UNROLL for (size_t r = 0; r < rows; r++) sums[o][r] = vec_zero(); }

  const float *x = tile->x;
  const tandem_half *w[4];
  UNROLL for (size_t o = 0; o < outputs; o++) w[o] = tile->weights + o * tile->weights_stride;

  size_t i = 0;
  for (; i + HALVES_PER_LINE <= tile->inputs; i += HALVES_PER_LINE) {
    if (tile->ahead) {
      const size_t ahead = tile->ahead + (i >> tile->ahead_shift) * sizeof(tandem_half);
      UNROLL for (size_t o = 0; o < outputs; o++) prefetch_l1(w[o], ahead);
    }
    UNROLL for (size_t s = 0; s < HALVES_PER_LINE; s += VEC_WIDTH) {
      UNROLL for (size_t o = 0; o < outputs; o++) weights[o] = vec_load_half(w[o] + i + s);
      linear_tile_step(sums, weights, x, rows, outputs);
      x += rows * VEC_WIDTH;
    }
  }
  for (; i + VEC_WIDTH <= tile->inputs; i += VEC_WIDTH) {
    UNROLL for (size_t o = 0; o < outputs; o++) weights[o] = vec_load_half(w[o] + i);
    linear_tile_step(sums, weights, x, rows, outputs);
    x += rows * VEC_WIDTH;
  }
  if (i < tile->inputs) {
    size_t count = tile->inputs - i;
    float last[LINEAR_TILE_ROWS * VEC_WIDTH];
    if (rows == 1) {  // a single row is not packed, so not padded
      vec_store(last, vec_load_part(x, count));
      x = last;
    }
    UNROLL for (size_t o = 0; o < outputs; o++) weights[o] = vec_load_half_part(w[o] + i, count);
    linear_tile_step(sums, weights, x, rows, outputs);
  }

  UNROLL for (size_t r = 0; r < rows; r++) {
    vec of_row[4];
    float dots[4];
    UNROLL for (size_t o = 0; o < 4; o++) of_row[o] = sums[o][r];
    vec_sum4(of_row, dots);
    float *y = tile->y + r * tile->y_stride;
    if (tile->accumulate) {
      UNROLL for (size_t o = 0; o < outputs; o++) y[o] += dots[o];
    } else {
      UNROLL for (size_t o = 0; o < outputs; o++) y[o] = dots[o];
    }
  }
}

#define LINEAR_TILE(rows, outputs)                                            \
  TILE linear_tile_##rows##x##outputs(const linear_tile *tile) {              \
    linear_tile_run(tile, rows, smaller(outputs, linear_tile_outputs(rows))); \
  }
#define LINEAR_TILES(rows) LINEAR_TILE(rows, 1) LINEAR_TILE(rows, 2) LINEAR_TILE(rows, 3) LINEAR_TILE(rows, 4)
#define LINEAR_TILE_NAMES(rows) \
  {linear_tile_##rows##x1, linear_tile_##rows##x2, linear_tile_##rows##x3, linear_tile_##rows##x4}

LINEAR_TILES(1)
LINEAR_TILES(2)
LINEAR_TILES(3)
LINEAR_TILES(4)
#if LINEAR_TILE_ROWS == 8
LINEAR_TILES(5)
LINEAR_TILES(6)
LINEAR_TILES(7)
LINEAR_TILES(8)
#endif

// [rows - 1][outputs - 1]
static void (*const linear_tiles[LINEAR_TILE_ROWS][4])(const linear_tile *) = {
    LINEAR_TILE_NAMES(1), LINEAR_TILE_NAMES(2), LINEAR_TILE_NAMES(3), LINEAR_TILE_NAMES(4),
#if LINEAR_TILE_ROWS == 8
    LINEAR_TILE_NAMES(5), LINEAR_TILE_NAMES(6), LINEAR_TILE_NAMES(7), LINEAR_TILE_NAMES(8),
#endif
};

// [rows, count] -> [step, rows, lane], padded with zeros to a whole step.
INLINE void linear_pack(const float *x, size_t x_stride, size_t rows, size_t count, float *packed) {
  for (size_t r = 0; r < rows; r++) {
    const float *row = x + r * x_stride;
    float *to = packed + r * VEC_WIDTH;
    size_t i = 0;
    for (; i + VEC_WIDTH <= count; i += VEC_WIDTH, to += rows * VEC_WIDTH) vec_store(to, vec_load(row + i));
    if (i < count) vec_store(to, vec_load_part(row + i, count - i));
  }
}

// One row: LINEAR_STREAMS outputs are read side by side, as many streams as the hardware's prefetcher follows
// with profit; LINEAR_STREAMS_AHEAD bytes ahead of them more is asked for, or nothing where it is 0.
TILE linear_streams(const float *x, const tandem_half *weights, size_t inputs, float *y) {
  vec sums[LINEAR_STREAMS];
  UNROLL for (size_t o = 0; o < LINEAR_STREAMS; o++) sums[o] = vec_zero();
  size_t i = 0;
  for (; i + VEC_WIDTH <= inputs; i += VEC_WIDTH) {
    if (LINEAR_STREAMS_AHEAD && i % HALVES_PER_LINE == 0) {
      UNROLL for (size_t o = 0; o < LINEAR_STREAMS; o++) {
        prefetch_l1(weights + o * inputs + i, LINEAR_STREAMS_AHEAD);
      }
    }
    const vec activation = vec_load(x + i);
    UNROLL for (size_t o = 0; o < LINEAR_STREAMS; o++) {
      sums[o] = vec_fma(vec_load_half(weights + o * inputs + i), activation, sums[o]);
    }
  }
  if (i < inputs) {
    const vec activation = vec_load_part(x + i, inputs - i);
    UNROLL for (size_t o = 0; o < LINEAR_STREAMS; o++) {
      sums[o] = vec_fma(vec_load_half_part(weights + o * inputs + i, inputs - i), activation, sums[o]);
    }
  }
  UNROLL for (size_t o = 0; o < LINEAR_STREAMS; o += 4) vec_sum4(sums + o, y + o);
}

static void linear_one_row(const tandem_linear *a) {
  size_t o = 0;
  for (; o + LINEAR_STREAMS <= a->outputs; o += LINEAR_STREAMS) {
    linear_streams(a->x, a->weights + o * a->inputs, a->inputs, a->y + o);
  }
  const size_t most = linear_tile_outputs(1);
  linear_tile tile = {.x = a->x, .weights_stride = a->inputs, .inputs = a->inputs};
  for (; o < a->outputs; o += most) {
    tile.weights = a->weights + o * a->inputs;
    tile.y = a->y + o;
    linear_tiles[0][smaller(most, a->outputs - o) - 1](&tile);
  }
}

// Up to LINEAR_GROUP_ROWS rows, their packed activations cut into tiles of rows and blocks of inputs.
typedef struct {
  const float *packed;
  size_t rows, tile_rows;
  size_t inputs, block;
} linear_group;

// All of a group's rows and inputs for a few outputs. `tile` holds what its tiles have in common.
static void linear_few_outputs(const linear_group *group, linear_tile tile, size_t outputs) {
  const tandem_half *weights = tile.weights;
  float *y = tile.y;
  const float *x = group->packed;
  const size_t most = linear_tile_outputs(group->tile_rows);
  const size_t ahead = tile.ahead;
  tile.ahead_shift = group->rows > group->tile_rows;
  for (size_t i = 0; i < group->inputs; i += group->block) {
    tile.inputs = smaller(group->block, group->inputs - i);
    const size_t padded = divided_up(tile.inputs, VEC_WIDTH) * VEC_WIDTH;
    for (size_t o = 0; o < outputs; o += most) {
      tile.weights = weights + o * tile.weights_stride + i;
      for (size_t r = 0; r < group->rows; r += group->tile_rows) {
        tile.x = x + r * padded;
        tile.y = y + r * tile.y_stride + o;
        tile.ahead = ahead && r ? ahead + tile.inputs / 2 * sizeof(tandem_half) : ahead;
        linear_tiles[smaller(group->tile_rows, group->rows - r) - 1][smaller(most, outputs - o) - 1](&tile);
      }
    }
    x += group->rows * padded;
    tile.accumulate = 1;
  }
}

static void linear_pack_group(const linear_group *group, const float *x, size_t x_stride, float *packed) {
  for (size_t i = 0; i < group->inputs; i += group->block) {
    const size_t inputs = smaller(group->block, group->inputs - i);
    const size_t padded = divided_up(inputs, VEC_WIDTH) * VEC_WIDTH;
    for (size_t r = 0; r < group->rows; r += group->tile_rows) {
      const size_t rows = smaller(group->tile_rows, group->rows - r);
      linear_pack(x + r * x_stride + i, x_stride, rows, inputs, packed);
      packed += rows * padded;
    }
  }
}

// A group of rows over `inputs` inputs, no more than LINEAR_PACKED_COUNT allows, and a block of outputs.
static void linear_rows(const float *x, size_t x_stride, size_t rows, size_t inputs, linear_tile tile,
                        size_t outputs) {
  _Alignas(CACHE_LINE) float packed[LINEAR_PACKED_COUNT];
  const size_t most_inputs = LINEAR_BLOCK_COUNT / rows / HALVES_PER_LINE * HALVES_PER_LINE;
  const size_t even_inputs = divided_up(inputs, divided_up(inputs, most_inputs));
  const linear_group group = {.packed = packed,
                              .rows = rows,
                              .tile_rows = divided_up(rows, divided_up(rows, LINEAR_TILE_ROWS)),
                              .inputs = inputs,
                              .block = divided_up(even_inputs, HALVES_PER_LINE) * HALVES_PER_LINE};
  linear_pack_group(&group, x, x_stride, packed);

  const tandem_half *weights = tile.weights;
  float *y = tile.y;
  const size_t most = linear_tile_outputs(group.tile_rows);
  const size_t row_byte_count = inputs * sizeof(tandem_half);
  const size_t few = divided_up(LINEAR_AHEAD, row_byte_count * most) * most;
  tile.ahead = rows > LINEAR_ROWS_UNASKED ? few * tile.weights_stride * sizeof(tandem_half) : 0;
  for (size_t o = 0; o < outputs; o += few) {
    tile.weights = weights + o * tile.weights_stride;
    tile.y = y + o;
    linear_few_outputs(&group, tile, smaller(few, outputs - o));
  }
}

static void linear_many_rows(const tandem_linear *a) {
  const size_t most_rows = smaller(a->rows, LINEAR_GROUP_ROWS);
  const size_t most_inputs = LINEAR_PACKED_COUNT / most_rows / HALVES_PER_LINE * HALVES_PER_LINE;
  const size_t output_block = a->rows <= LINEAR_GROUP_ROWS ? a->outputs : LINEAR_BLOCK_OUTPUTS;
  for (size_t i = 0; i < a->inputs; i += most_inputs) {
    for (size_t o = 0; o < a->outputs; o += output_block) {
      for (size_t r = 0; r < a->rows; r += LINEAR_GROUP_ROWS) {
        linear_tile tile = {.weights = a->weights + o * a->inputs + i,
                            .weights_stride = a->inputs,
                            .y = a->y + r * a->y_stride + o,
                            .y_stride = a->y_stride,
                            .accumulate = i != 0};
        linear_rows(a->x + r * a->x_stride + i, a->x_stride, smaller(LINEAR_GROUP_ROWS, a->rows - r),
                    smaller(most_inputs, a->inputs - i), tile, smaller(output_block, a->outputs - o));
      }
    }
  }
}

static void linear(const tandem_linear *a) {
  if (a->rows == 1) {
    linear_one_row(a);
  } else {
    linear_many_rows(a);
  }
  for (size_t r = 0; r < a->rows; r++) {
    add_bias_and_activate(a->y + r * a->y_stride, a->bias, a->outputs, a->activation);
  }
}
