// Products with quantized weights; docs/quantization.md has the layout of their tiles.
//
// A tile is 16 outputs x up to 64 inputs, of which a unit of 64 bytes holds a few inputs of all outputs.
// Codes are multiplied as integers, straight from the tile: activations are rounded, group by group, to 15
// bits, which is what fp16 leaves of them. A group's integer sums then take part with the group's scale, and
// its minimum times the sum of its activations. A lane of a vector is an output, so nothing is summed up
// across lanes.

#define QUANTIZED_PARTS (TANDEM_TILE_OUTPUTS / VEC_WIDTH)
// Activations are whole numbers of up to this, times their group's scale.
#define QUANTIZED_MOST 16256.0f

// A group of a row's activations.
typedef struct {
  // As the instruction set wants them: 64 numbers of 16 bits; or 64 times their upper bytes (of 128) in the
  // order of a tile's bytes, then 64 times what is left.
  _Alignas(8) int8_t values[2 * TANDEM_GROUP_INPUTS];
  float scale;
  float sum;  // of the group's activations, as they were rounded
} quantized_group;

_Static_assert(sizeof(quantized_group) == TANDEM_QUANTIZED_GROUP_BYTES,
               "the header says how large a group is");

INLINE size_t tile_units(size_t inputs, int bits) { return inputs * (size_t)bits / 32; }
INLINE size_t tile_bytes(size_t inputs, int bits) { return (tile_units(inputs, bits) + 1) * CACHE_LINE; }

// Bytes of 16 outputs' tiles up to input `end`, where a group ends.
INLINE size_t tiles_bytes_to(size_t end, size_t period, int bits) {
  const size_t groups = divided_up(period, TANDEM_GROUP_INPUTS);
  const size_t whole = end / period, rest = end % period;
  return whole * (tile_units(period, bits) + groups) * CACHE_LINE +
         (tile_units(rest, bits) + divided_up(rest, TANDEM_GROUP_INPUTS)) * CACHE_LINE;
}

// The inputs of the group that begins at input i.
INLINE size_t group_inputs(size_t i, size_t inputs, size_t period) {
  return smaller(smaller(TANDEM_GROUP_INPUTS, period - i % period), inputs - i);
}

static void quantize_group(const float *x, size_t count, quantized_group *group) {
  uint32_t magnitude = 0;
  for (size_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof bits);
    magnitude = bits << 1 > magnitude ? bits << 1 : magnitude;
  }
  magnitude >>= 1;
  float most;
  memcpy(&most, &magnitude, sizeof most);
  const float scale = most / QUANTIZED_MOST, inverse = most > 0 ? QUANTIZED_MOST / most : 0;
  int16_t values[TANDEM_GROUP_INPUTS] = {0};
  int32_t sum = 0;
  for (size_t i = 0; i < count; i++) {
    values[i] = (int16_t)__builtin_rintf(x[i] * inverse);
    sum += values[i];
  }
  group->scale = scale;
  group->sum = scale * (float)sum;
#if QUANTIZED_BYTES
  for (size_t i = 0; i < TANDEM_GROUP_INPUTS; i += 4) {
    const int16_t in_order[4] = {values[i], values[i + 2], values[i + 1], values[i + 3]};
    UNROLL for (size_t b = 0; b < 4; b++) {
      const int16_t upper = (int16_t)((in_order[b] + 64) >> 7);
      group->values[i + b] = (int8_t)upper;
      group->values[TANDEM_GROUP_INPUTS + i + b] = (int8_t)(in_order[b] - 128 * upper);
    }
  }
#else
  memcpy(group->values, values, sizeof values);
#endif
}

static void quantize_rows(const tandem_quantize_rows *a) {
  quantized_group *group = a->groups;
  for (size_t i = 0; i < a->inputs;) {
    const size_t count = group_inputs(i, a->inputs, a->period);
    for (size_t r = 0; r < a->rows; r++) quantize_group(a->x + r * a->x_stride + i, count, group++);
    i += count;
  }
}

// sums[r][part] += a tile times the groups of `rows` rows, at the tile's positions.
INLINE void quantized_tile(const uint8_t *tile, const size_t units, const int bits, const quantized_group *x,
                           const size_t rows, vec sums[QUANTIZED_ROWS][QUANTIZED_PARTS]) {
  const tandem_half *scales = (const tandem_half *)(tile + units * CACHE_LINE);
  UNROLL for (size_t part = 0; part < QUANTIZED_PARTS; part++) {
    code_sum of_row[QUANTIZED_ROWS];
    UNROLL for (size_t r = 0; r < rows; r++) of_row[r] = code_sum_zero();
    const uint8_t *unit = tile + part * VEC_WIDTH * 4;
    for (size_t u = 0; u < units; u++, unit += CACHE_LINE) {
      const codes word = codes_load(unit);
      UNROLL for (size_t r = 0; r < rows; r++) {
        of_row[r] = bits == 4 ? codes_add4(of_row[r], word, x[r].values + CODES_STRIDE * 8 * u)
                              : codes_add8(of_row[r], word, x[r].values + CODES_STRIDE * 4 * u);
      }
    }
    const vec scale = vec_load_half(scales + part * VEC_WIDTH);
    const vec minimum = vec_load_half(scales + TANDEM_TILE_OUTPUTS + part * VEC_WIDTH);
    UNROLL for (size_t r = 0; r < rows; r++) {
      vec sum = vec_fma(minimum, vec_set1(x[r].sum), sums[r][part]);
      sums[r][part] = vec_fma(code_sum_floats(of_row[r]), vec_mul(scale, vec_set1(x[r].scale)), sum);
    }
  }
}

// Of a tile's sums those of outputs 0 ... 15 in their order.
INLINE void quantized_in_order(const vec sums[QUANTIZED_PARTS], float in_order[TANDEM_TILE_OUTPUTS]) {
  float at_position[TANDEM_TILE_OUTPUTS];
  UNROLL for (size_t part = 0; part < QUANTIZED_PARTS; part++) {
    vec_store(at_position + part * VEC_WIDTH, sums[part]);
  }
  UNROLL for (size_t o = 0; o < 8; o++) {
    in_order[o] = at_position[2 * o];
    in_order[o + 8] = at_position[2 * o + 1];
  }
}

typedef struct {
  const quantized_group *x;  // of the first row
  size_t x_rows;             // rows that a group has
  const uint8_t *tiles;
  size_t period, inputs, blocks;
  float *y;
  size_t y_stride;
  int accumulate;
} quantized_tile_run;

// All groups of one block of outputs.
INLINE void quantized_by_outputs(const quantized_tile_run *run, const int bits, const size_t rows) {
  const uint8_t *tile = run->tiles;
  for (size_t block = 0; block < run->blocks; block++) {
    vec sums[QUANTIZED_ROWS][QUANTIZED_PARTS];
    UNROLL for (size_t r = 0; r < rows; r++) {
      UNROLL for (size_t part = 0; part < QUANTIZED_PARTS; part++) sums[r][part] = vec_zero();
    }
    const quantized_group *x = run->x;
    size_t i = 0;
    for (; i + TANDEM_GROUP_INPUTS <= run->inputs; i += TANDEM_GROUP_INPUTS, x += run->x_rows) {
      const size_t units = TANDEM_GROUP_INPUTS * bits / 32;
      UNROLL for (size_t u = 0; u <= units; u++) prefetch_l1(tile, QUANTIZED_AHEAD + u * CACHE_LINE);
      quantized_tile(tile, units, bits, x, rows, sums);
      tile += (units + 1) * CACHE_LINE;
    }
    if (i < run->inputs) {
      quantized_tile(tile, tile_units(run->inputs - i, bits), bits, x, rows, sums);
      tile += tile_bytes(run->inputs - i, bits);
    }
    UNROLL for (size_t r = 0; r < rows; r++) {
      quantized_in_order(sums[r], run->y + r * run->y_stride + block * TANDEM_TILE_OUTPUTS);
    }
  }
}

// One group of several blocks of outputs, whose tiles follow each other.
INLINE void quantized_by_inputs(const quantized_tile_run *run, const size_t units, const int bits,
                                const size_t rows) {
  const uint8_t *tile = run->tiles;
  for (size_t block = 0; block < run->blocks; block++, tile += (units + 1) * CACHE_LINE) {
    vec sums[QUANTIZED_ROWS][QUANTIZED_PARTS];
    UNROLL for (size_t r = 0; r < rows; r++) {
      UNROLL for (size_t part = 0; part < QUANTIZED_PARTS; part++) sums[r][part] = vec_zero();
    }
    for (size_t u = 0; u <= units; u++) prefetch_l1(tile, QUANTIZED_AHEAD + u * CACHE_LINE);
    quantized_tile(tile, units, bits, run->x, rows, sums);
    UNROLL for (size_t r = 0; r < rows; r++) {
      float in_order[TANDEM_TILE_OUTPUTS];
      quantized_in_order(sums[r], in_order);
      float *y = run->y + r * run->y_stride + block * TANDEM_TILE_OUTPUTS;
      UNROLL for (size_t v = 0; v < TANDEM_TILE_OUTPUTS; v += VEC_WIDTH) {
        const vec sum = vec_load(in_order + v);
        vec_store(y + v, run->accumulate ? vec_add(vec_load(y + v), sum) : sum);
      }
    }
  }
}

#define QUANTIZED_TILES(rows)                                                                               \
  TILE quantized_by_outputs_4_##rows(const quantized_tile_run *run) { quantized_by_outputs(run, 4, rows); } \
  TILE quantized_by_outputs_8_##rows(const quantized_tile_run *run) { quantized_by_outputs(run, 8, rows); } \
  TILE quantized_by_inputs_4_##rows(const quantized_tile_run *run) {                                        \
    if (run->inputs == TANDEM_GROUP_INPUTS) {                                                               \
      quantized_by_inputs(run, TANDEM_GROUP_INPUTS / 8, 4, rows);                                           \
    } else {                                                                                                \
      quantized_by_inputs(run, run->inputs / 8, 4, rows);                                                   \
    }                                                                                                       \
  }                                                                                                         \
  TILE quantized_by_inputs_8_##rows(const quantized_tile_run *run) {                                        \
    if (run->inputs == TANDEM_GROUP_INPUTS) {                                                               \
      quantized_by_inputs(run, TANDEM_GROUP_INPUTS / 4, 8, rows);                                           \
    } else {                                                                                                \
      quantized_by_inputs(run, run->inputs / 4, 8, rows);                                                   \
    }                                                                                                       \
  }
#define QUANTIZED_TILE_NAMES(rows)                                                             \
  {quantized_by_outputs_4_##rows, quantized_by_outputs_8_##rows, quantized_by_inputs_4_##rows, \
   quantized_by_inputs_8_##rows}

QUANTIZED_TILES(1)
QUANTIZED_TILES(2)
QUANTIZED_TILES(3)
QUANTIZED_TILES(4)
#if QUANTIZED_ROWS == 8
QUANTIZED_TILES(5)
QUANTIZED_TILES(6)
QUANTIZED_TILES(7)
QUANTIZED_TILES(8)
#endif

// [rows - 1][2 * by_inputs + (bits == 8)]
static void (*const quantized_tiles[QUANTIZED_ROWS][4])(const quantized_tile_run *) = {
    QUANTIZED_TILE_NAMES(1), QUANTIZED_TILE_NAMES(2), QUANTIZED_TILE_NAMES(3), QUANTIZED_TILE_NAMES(4),
#if QUANTIZED_ROWS == 8
    QUANTIZED_TILE_NAMES(5), QUANTIZED_TILE_NAMES(6), QUANTIZED_TILE_NAMES(7), QUANTIZED_TILE_NAMES(8),
#endif
};

// Blocks of outputs that all rows pass over before the next: they stay in the L1 cache.
#define QUANTIZED_BLOCKS 16

static void linear_quantized(const tandem_linear_quantized *a) {
  const quantized_group *x = a->x;
  const size_t tile_rows = divided_up(a->rows, divided_up(a->rows, QUANTIZED_ROWS));
  const size_t blocks = a->outputs / TANDEM_TILE_OUTPUTS;
  const size_t way = (a->by_inputs ? 2 : 0) + (a->bits == 8);
  // Few rows take everything at once.
  const size_t most_blocks = tile_rows == a->rows ? blocks : a->by_inputs ? QUANTIZED_BLOCKS : 1;
  if (a->by_inputs && a->inputs == 0 && !a->accumulate) {
    // The sum over nothing: threads that have no part of the inputs add zeros to a block's sum.
    for (size_t r = 0; r < a->rows; r++) {
      for (size_t o = 0; o < a->outputs; o++) a->y[r * a->y_stride + o] = 0;
    }
    return;
  }
  const uint8_t *tiles = a->weights;
  for (size_t i = 0; i < a->inputs || (i == 0 && !a->by_inputs);) {
    const size_t inputs = a->by_inputs ? group_inputs(i, a->inputs, a->period) : a->inputs;
    const size_t block_bytes =
        a->by_inputs ? tile_bytes(inputs, a->bits) : tiles_bytes_to(inputs, a->period, a->bits);
    for (size_t block = 0; block < blocks; block += most_blocks) {
      for (size_t r = 0; r < a->rows; r += tile_rows) {
        const quantized_tile_run run = {.x = x + r,
                                        .x_rows = a->rows,
                                        .tiles = tiles + block * block_bytes,
                                        .period = a->period,
                                        .inputs = inputs,
                                        .blocks = smaller(most_blocks, blocks - block),
                                        .y = a->y + r * a->y_stride + block * TANDEM_TILE_OUTPUTS,
                                        .y_stride = a->y_stride,
                                        .accumulate = a->accumulate || i != 0};
        quantized_tiles[smaller(tile_rows, a->rows - r) - 1][way](&run);
      }
    }
    if (!a->by_inputs) break;
    tiles += blocks * block_bytes;
    x += a->rows;
    i += inputs;
  }
  if (a->by_inputs) return;
  for (size_t r = 0; r < a->rows; r++) {
    add_bias_and_activate(a->y + r * a->y_stride, a->bias, a->outputs, a->activation);
  }
}

// Weights of a tile as floats, [inputs, GEMM_COLUMNS] of the panels that the tile's outputs are in: `packed`
// is where the first output's column begins, and the panels lie `panel_stride` apart.
static void dequantize_tile(const uint8_t *tile, size_t inputs, int bits, float *packed,
                            size_t panel_stride) {
  const size_t units = tile_units(inputs, bits), per_unit = 32 / (size_t)bits;
  const tandem_half *scales = (const tandem_half *)(tile + units * CACHE_LINE);
  vec scale[QUANTIZED_PARTS], minimum[QUANTIZED_PARTS];
  UNROLL for (size_t part = 0; part < QUANTIZED_PARTS; part++) {
    scale[part] = vec_load_half(scales + part * VEC_WIDTH);
    minimum[part] = vec_load_half(scales + TANDEM_TILE_OUTPUTS + part * VEC_WIDTH);
  }
  for (size_t i = 0; i < inputs; i++) {
    const size_t order = (size_t[]){0, 2, 1, 3}[i % 4];
    const unsigned shift = (unsigned)(8 * order + (bits == 4 ? i % 8 / 4 * 4 : 0));
    vec weights[QUANTIZED_PARTS];
    UNROLL for (size_t part = 0; part < QUANTIZED_PARTS; part++) {
      const uint8_t *unit = tile + i / per_unit * CACHE_LINE + part * VEC_WIDTH * 4;
      weights[part] =
          vec_fma(scale[part], codes_floats(codes_load(unit), shift, (1u << bits) - 1), minimum[part]);
    }
    float in_order[TANDEM_TILE_OUTPUTS];
    quantized_in_order(weights, in_order);
    UNROLL for (size_t o = 0; o < TANDEM_TILE_OUTPUTS; o += VEC_WIDTH) {
      vec_store(packed + o / GEMM_COLUMNS * panel_stride + i * GEMM_COLUMNS + o % GEMM_COLUMNS,
                vec_load(in_order + o));
    }
  }
}

static void gemm_quantized(const tandem_gemm_quantized *a) {
  const size_t most_inputs = GEMM_BLOCK_INPUTS / a->period * a->period;
  const size_t all_blocks = a->matrix_outputs / TANDEM_TILE_OUTPUTS;
  const size_t all_bytes = tiles_bytes_to(a->inputs, a->period, a->bits);
  gemm_rows from = {a->packed_x, a->inputs * GEMM_ROWS, 1, GEMM_ROWS};
  for (size_t o = 0; o < a->outputs; o += GEMM_BLOCK_OUTPUTS) {
    const size_t outputs = smaller(GEMM_BLOCK_OUTPUTS, a->outputs - o);
    for (size_t i = 0; i < a->inputs; i += most_inputs) {
      const size_t inputs = smaller(most_inputs, a->inputs - i);
      for (size_t g = i; g < i + inputs;) {
        const size_t count = group_inputs(g, a->inputs, a->period);
        const size_t to_group = tiles_bytes_to(g, a->period, a->bits);
        for (size_t c = 0; c < outputs; c += TANDEM_TILE_OUTPUTS) {
          const size_t block = (a->first_output + o + c) / TANDEM_TILE_OUTPUTS;
          const uint8_t *tile = (const uint8_t *)a->weights +
                                (a->by_inputs ? all_blocks * to_group + block * tile_bytes(count, a->bits)
                                              : block * all_bytes + to_group);
          dequantize_tile(tile, count, a->bits,
                          a->scratch + c / GEMM_COLUMNS * inputs * GEMM_COLUMNS + (g - i) * GEMM_COLUMNS +
                              c % GEMM_COLUMNS,
                          inputs * GEMM_COLUMNS);
        }
        g += count;
      }
      from.x = a->packed_x + i * from.input_stride;
      gemm_block(&from, a->scratch, a->rows, inputs, outputs, a->y + o, a->y_stride, i != 0);
    }
    for (size_t r = 0; r < a->rows; r++) {
      add_bias_and_activate(a->y + r * a->y_stride + o, a->bias ? a->bias + o : NULL, outputs, a->activation);
    }
  }
}

static size_t quantize_tile(const tandem_quantize_tile *a) {
  const size_t units = tile_units(a->inputs, a->bits);
  tandem_half *scales = (tandem_half *)((uint8_t *)a->tile + units * CACHE_LINE);
  size_t not_finite = 0;
  memset(a->tile, 0, units * CACHE_LINE);
  for (size_t o = 0; o < TANDEM_TILE_OUTPUTS; o++) {
    float values[TANDEM_GROUP_INPUTS];
    float_from_half(a->weights + o * a->stride, values, a->inputs);
    float least = values[0], most = values[0];
    for (size_t i = 0; i < a->inputs; i++) {
      not_finite += !(values[i] - values[i] == 0);
      least = values[i] < least ? values[i] : least;
      most = values[i] > most ? values[i] : most;
    }
    const float most_code = (float)((1 << a->bits) - 1);
    const tandem_half scale = half_no_less((most - least) / most_code);
    const float step = half_value(scale);
    const size_t position = o % 8 * 2 + o / 8;
    scales[position] = scale;
    half_from_float(&least, scales + TANDEM_TILE_OUTPUTS + position, 1);
    uint8_t *bytes = (uint8_t *)a->tile + 4 * position;
    for (size_t i = 0; i < a->inputs; i++) {
      const float code = step > 0 ? __builtin_rintf((values[i] - least) / step) : 0;
      const unsigned rounded = (unsigned)(code < most_code ? code : most_code);
      const size_t order = (size_t[]){0, 2, 1, 3}[i % 4];
      if (a->bits == 4) {
        bytes[i / 8 * CACHE_LINE + order] |= (uint8_t)(rounded << (i % 8 / 4 * 4));
      } else {
        bytes[i / 4 * CACHE_LINE + order] = (uint8_t)rounded;
      }
    }
  }
  return not_finite;
}
