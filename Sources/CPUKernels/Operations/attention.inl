// out[q, :] = softmax(queries[q, :] . keys^T) . values over the positions 0 ... first_position + q.
//
// Blocks of queries and of positions with a running maximum and sum (Milakov and Gimelshein, "Online
// normalizer calculation for softmax"), so that the scores of a block stay in the L2 cache and the scratch
// does not grow with the positions. A few queries, as in decode, are bound by reading the cache and use the
// products for few rows; many use the matrix product, which converts keys and values once for a block of
// queries. Over a cache in 4 bits few multiply its codes, and many expand a part of it to fp16 first.

#define ATTENTION_FEW_QUERIES 4
#define ATTENTION_FEW_POSITIONS 1024
#define ATTENTION_QUERIES 96
#define ATTENTION_POSITIONS 256
// Rows of scores are a few lines apart from a power of two, which would put them all into one cache set.
#define ATTENTION_STRIDE (ATTENTION_POSITIONS + 16)
#define ATTENTION_FEW_STRIDE (ATTENTION_FEW_POSITIONS + 16)

static size_t attention_scratch_count(size_t positions) {
  (void)positions;
  return larger(ATTENTION_QUERIES * ATTENTION_STRIDE, ATTENTION_FEW_QUERIES * ATTENTION_FEW_STRIDE) +
         GEMM_SCRATCH_COUNT;
}

typedef struct {
  float maximum, sum;
} softmax_state;

// Turns `visible` scores into exp(score - maximum) and the `count - visible` after them into 0. Returns what
// sums made under the old maximum have to be multiplied by.
static float softmax_block(float *scores, size_t visible, size_t count, softmax_state *state, int first) {
  const size_t whole = visible / VEC_WIDTH * VEC_WIDTH;
  const size_t rest = visible - whole;
  float maximum = first ? scores[0] : state->maximum;
  if (whole) {
    vec most = vec_load(scores);
    for (size_t p = VEC_WIDTH; p < whole; p += VEC_WIDTH) most = vec_max(most, vec_load(scores + p));
    float lane = vec_max_lane(most);
    maximum = lane > maximum ? lane : maximum;
  }
  for (size_t p = whole; p < visible; p++) maximum = scores[p] > maximum ? scores[p] : maximum;

  const vec shift = vec_set1(maximum);
  vec sums = vec_zero();
  for (size_t p = 0; p < whole; p += VEC_WIDTH) {
    vec e = vec_exp(vec_sub(vec_load(scores + p), shift));
    vec_store(scores + p, e);
    sums = vec_add(sums, e);
  }
  float sum = vec_sum(sums);
  if (rest) {
    float lanes[VEC_WIDTH];
    vec_store(lanes, vec_exp(vec_sub(vec_load_part(scores + whole, rest), shift)));
    for (size_t p = 0; p < rest; p++) {
      scores[whole + p] = lanes[p];
      sum += lanes[p];
    }
  }
  if (visible < count) memset(scores + visible, 0, (count - visible) * sizeof(float));

  float scale = 0;
  if (!first) {
    float lanes[VEC_WIDTH];
    vec_store(lanes, vec_exp(vec_set1(state->maximum - maximum)));
    scale = lanes[0];
  }
  state->maximum = maximum;
  state->sum = first ? sum : state->sum * scale + sum;
  return scale;
}

INLINE void scale_row(float *row, float scale, size_t count) {
  const vec factor = vec_set1(scale);
  size_t i = 0;
  for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) vec_store(row + i, vec_mul(vec_load(row + i), factor));
  for (; i < count; i++) row[i] *= scale;
}

// Elements of a cache in 4 bits that are expanded at once: they stay in the L1 cache.
#define ATTENTION_EXPANDED 8192

// How many of some positions are taken at once, and these in fp16, in `expanded` where the cache is not.
INLINE size_t attention_positions(const tandem_attention *a, size_t positions) {
  return a->cache_bits == 4 ? smaller(positions, larger(1, ATTENTION_EXPANDED / a->head_dim)) : positions;
}
INLINE const tandem_half *attention_cache(const tandem_attention *a, const void *cache, size_t position,
                                          size_t positions, tandem_half *expanded) {
  if (a->cache_bits != 4) return (const tandem_half *)cache + position * a->head_dim;
  dequantize_positions((const uint8_t *)cache + position * tandem_quantized_position_bytes(a->head_dim),
                       positions, a->head_dim, expanded);
  return expanded;
}

// scores[q, p] = queries[q, :] . keys[p, :]
static void attention_scores_of(const tandem_attention *a, size_t query, size_t queries,
                                const tandem_half *keys, size_t positions, float *scores, size_t stride,
                                float *scratch) {
  const float *x = a->queries + query * a->query_stride;
  if (queries <= ATTENTION_FEW_QUERIES) {
    tandem_linear product = {.x = x,
                             .x_stride = a->query_stride,
                             .weights = keys,
                             .y = scores,
                             .y_stride = stride,
                             .rows = queries,
                             .inputs = a->head_dim,
                             .outputs = positions};
    linear(&product);
  } else {
    tandem_gemm product = {.weights = keys,
                           .weights_stride = a->head_dim,
                           .y = scores,
                           .y_stride = stride,
                           .rows = queries,
                           .inputs = a->head_dim,
                           .outputs = positions,
                           .scratch = scratch};
    gemm_rows from = {x, GEMM_ROWS * a->query_stride, a->query_stride, 1};
    gemm_from(from, &product, 0);
  }
}

static void attention_scores(const tandem_attention *a, size_t query, size_t queries, size_t position,
                             size_t positions, float *scores, size_t stride, float *scratch) {
  if (a->cache_bits == 4 && queries <= ATTENTION_FEW_QUERIES) {
    const cache_pass keys = {a->keys, position, positions, a->head_dim, scratch};
    for (size_t q = 0; q < queries; q++) {
      quantized_scores(&keys, a->queries + (query + q) * a->query_stride, scores + q * stride);
    }
    return;
  }
  _Alignas(CACHE_LINE) tandem_half expanded[ATTENTION_EXPANDED];
  const size_t most = attention_positions(a, positions);
  for (size_t p = 0; p < positions; p += most) {
    const size_t count = smaller(most, positions - p);
    const tandem_half *keys = attention_cache(a, a->keys, position + p, count, expanded);
    attention_scores_of(a, query, queries, keys, count, scores + p, stride, scratch);
  }
}

// out[q, :] (+)= sum over p of scores[q, p] * values[p, :]
static void attention_values_of(const tandem_attention *a, size_t query, size_t queries,
                                const tandem_half *values, size_t positions, int accumulate,
                                const float *scores, size_t stride, float *scratch) {
  float *y = a->out + query * a->out_stride;
  if (queries <= ATTENTION_FEW_QUERIES) {
    tandem_linear_transposed product = {.x = scores,
                                        .x_stride = stride,
                                        .weights = values,
                                        .y = y,
                                        .y_stride = a->out_stride,
                                        .rows = queries,
                                        .inputs = positions,
                                        .outputs = a->head_dim,
                                        .accumulate = accumulate};
    linear_transposed(&product);
  } else {
    tandem_gemm product = {.weights = values,
                           .weights_stride = a->head_dim,
                           .transposed = 1,
                           .y = y,
                           .y_stride = a->out_stride,
                           .rows = queries,
                           .inputs = positions,
                           .outputs = a->head_dim,
                           .scratch = scratch};
    gemm_rows from = {scores, GEMM_ROWS * stride, stride, 1};
    gemm_from(from, &product, accumulate);
  }
}

static void attention_values(const tandem_attention *a, size_t query, size_t queries, size_t position,
                             size_t positions, const float *scores, size_t stride, float *scratch) {
  if (a->cache_bits == 4 && queries <= ATTENTION_FEW_QUERIES) {
    const cache_pass values = {a->values, position, positions, a->head_dim, scratch};
    for (size_t q = 0; q < queries; q++) {
      quantized_values(&values, scores + q * stride, position != 0, a->out + (query + q) * a->out_stride);
    }
    return;
  }
  _Alignas(CACHE_LINE) tandem_half expanded[ATTENTION_EXPANDED];
  const size_t most = attention_positions(a, positions);
  for (size_t p = 0; p < positions; p += most) {
    const size_t count = smaller(most, positions - p);
    const tandem_half *values = attention_cache(a, a->values, position + p, count, expanded);
    attention_values_of(a, query, queries, values, count, position + p != 0, scores + p, stride, scratch);
  }
}

static void attention(const tandem_attention *a) {
  const int few = a->query_count <= ATTENTION_FEW_QUERIES;
  const size_t query_block = few ? ATTENTION_FEW_QUERIES : ATTENTION_QUERIES;
  const size_t position_block = few ? ATTENTION_FEW_POSITIONS : ATTENTION_POSITIONS;
  const size_t stride = few ? ATTENTION_FEW_STRIDE : ATTENTION_STRIDE;
  float *scratch = a->scratch, *scores = a->scratch + GEMM_SCRATCH_COUNT;
  for (size_t query = 0; query < a->query_count; query += query_block) {
    softmax_state states[ATTENTION_QUERIES];
    const size_t queries = smaller(query_block, a->query_count - query);
    const size_t end = a->first_position + query + queries;
    for (size_t position = 0; position < end; position += position_block) {
      const size_t positions = smaller(position_block, end - position);
      attention_scores(a, query, queries, position, positions, scores, stride, scratch);
      for (size_t q = 0; q < queries; q++) {
        const size_t last = a->first_position + query + q + 1;
        const size_t visible = last > position ? smaller(last - position, positions) : 0;
        float scale = softmax_block(scores + q * stride, visible, positions, &states[q], position == 0);
        if (position != 0 && scale != 1) scale_row(a->out + (query + q) * a->out_stride, scale, a->head_dim);
      }
      attention_values(a, query, queries, position, positions, scores, stride, scratch);
    }
    for (size_t q = 0; q < queries; q++) {
      scale_row(a->out + (query + q) * a->out_stride, 1 / states[q].sum, a->head_dim);
    }
  }
}
