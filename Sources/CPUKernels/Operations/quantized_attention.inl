// Scores and weighted sums of one query over keys and values in 4 bits, from their codes.
//
// An element is minimum + scale * code, so that for each group of a head's elements
//
//   query . key_p              = scale_p * (query . codes_p) + minimum_p * sum(query)
//   sum over p of w_p * v_p    = sum over p of (w_p * scale_p) * codes_p + sum over p of w_p * minimum_p
//
// Codes are multiplied as integers, straight from the cache: what they are multiplied with, a query's group,
// or w_p * scale_p of a block of positions, is rounded to whole numbers of 16 bits times one scale. It is
// closer than rounding the cache's elements to fp16 was. Blocks are short: beside a weight of 1 each of the
// block's others may be off by 1 / 65024, all of them together by no more than 1 / 1000.

// Numbers are up to this times their scale; it is what two signed bytes hold, 256 * 127 and 0.
#define CACHE_MOST 32512.0f

// A group of the query, in scratch.
typedef struct {
  cache_numbers numbers;
  float scale;
  float sum;  // of the group's elements, as they were rounded
} cache_group;

// Returns the scale.
static float cache_round(const float x[CACHE_CODES], int16_t numbers[CACHE_CODES]) {
  uint32_t magnitude = 0;
  for (size_t i = 0; i < CACHE_CODES; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffff;
    magnitude = bits > magnitude ? bits : magnitude;
  }
  float most;
  memcpy(&most, &magnitude, sizeof most);
  const float inverse = most > 0 ? CACHE_MOST / most : 0;
  for (size_t i = 0; i < CACHE_CODES; i++) numbers[i] = (int16_t)(int32_t)__builtin_rintf(x[i] * inverse);
  return most / CACHE_MOST;
}

static void cache_round_query(const float *query, size_t head_dim, cache_group *groups) {
  for (size_t first = 0; first < head_dim; first += TANDEM_GROUP_INPUTS, groups++) {
    const size_t half = smaller(TANDEM_GROUP_INPUTS, head_dim - first) / 2;
    float by_code[CACHE_CODES] = {0};
    memcpy(by_code, query + first, half * sizeof(float));
    memcpy(by_code + CACHE_CODES / 2, query + first + half, half * sizeof(float));
    int16_t numbers[CACHE_CODES];
    groups->scale = cache_round(by_code, numbers);
    cache_query(numbers, &groups->numbers);
    int32_t sum = 0;
    for (size_t i = 0; i < CACHE_CODES; i++) sum += numbers[i];
    groups->sum = groups->scale * (float)sum;
  }
}

// Positions of a head's keys or values that follow each other.
typedef struct {
  const void *cache;
  size_t position, positions, head_dim;
  float *scratch;
} cache_pass;

// One group of their elements.
typedef struct {
  const uint8_t *codes;  // of the first position
  size_t bytes;          // of a position's codes
  size_t scales;         // bytes from these to the group's scale and minimum
  size_t stride;         // bytes from a position to the next
  size_t end;            // how many positions
  size_t ahead;  // bytes that 16 positions ask for, ahead of their codes: the first group asks for all
} cache_run;

INLINE cache_run cache_run_of(const cache_pass *pass, size_t group) {
  const size_t stride = tandem_quantized_position_bytes(pass->head_dim);
  const size_t first = group * TANDEM_GROUP_INPUTS;
  return (cache_run){.codes = (const uint8_t *)pass->cache + pass->position * stride + first / 2,
                     .bytes = smaller(TANDEM_GROUP_INPUTS, pass->head_dim - first) / 2,
                     .scales = pass->head_dim / 2 + 4 * group - first / 2,
                     .stride = stride,
                     .end = pass->positions,
                     .ahead = group == 0 ? 16 * stride : 0};
}

// Of position `first` and those behind it scale and minimum, one word each; 0 behind the last.
INLINE void cache_collect(const cache_run *run, size_t first, uint32_t pairs[CACHE_POSITIONS]) {
  const uint8_t *from = run->codes + run->scales + first * run->stride;
  const size_t count = smaller(CACHE_POSITIONS, run->end - first);
  for (size_t p = 0; p < count; p++, from += run->stride) memcpy(pairs + p, from, sizeof *pairs);
  for (size_t p = count; p < CACHE_POSITIONS; p++) pairs[p] = 0;
}

// 16 positions' codes, 32 bytes of each. What lies behind a shorter group's codes is multiplied by 0, or its
// sum is not used; where that, or a position itself, lies behind the last position, the codes are copied.
typedef struct {
  const uint8_t *codes;
  size_t stride;
} cache_16;

// Asking ahead took a thread over a cache in memory from 27 to 39 G elements a second; from the caches it has
// 55 to 60 (Zen 5, VNNI). Further ahead was faster with long contexts, and with short ones asked mostly for
// what lies between the positions of two heads.
INLINE cache_16 cache_take(const cache_run *run, size_t first, uint8_t copy[16 * 32]) {
  const uint8_t *codes = run->codes + first * run->stride;
  for (size_t b = 0; b < run->ahead; b += CACHE_LINE) prefetch_l1(codes, QUANTIZED_AHEAD + b);
  if (first + 16 + divided_up(32 - run->bytes, run->stride) <= run->end) {
    return (cache_16){codes, run->stride};
  }
  memset(copy, 0, 16 * 32);
  const size_t count = smaller(16, run->end - first);
  for (size_t p = 0; p < count; p++) memcpy(copy + 32 * p, codes + p * run->stride, run->bytes);
  return (cache_16){copy, 32};
}

// scores[p] = query . keys[p, :] for a whole number of blocks, of which positions behind the last score 0.
static void quantized_scores(const cache_pass *keys, const float *query, float *scores) {
  cache_group *groups = (cache_group *)keys->scratch;
  cache_round_query(query, keys->head_dim, groups);
  for (size_t block = 0; block < keys->positions; block += CACHE_POSITIONS) {
    const size_t end = smaller(CACHE_POSITIONS, keys->positions - block);
    for (size_t group = 0; group * TANDEM_GROUP_INPUTS < keys->head_dim; group++) {
      const cache_run run = cache_run_of(keys, group);
      uint32_t pairs[CACHE_POSITIONS];
      float dots[CACHE_POSITIONS] = {0};
      cache_collect(&run, block, pairs);
      for (size_t p = 0; p < end; p += 16) {
        uint8_t copy[16 * 32];
        const cache_16 from = cache_take(&run, block + p, copy);
        cache_dots(from.codes, from.stride, &groups[group].numbers, dots + p);
      }
      const vec of_query = vec_set1(groups[group].scale), sum = vec_set1(groups[group].sum);
      for (size_t p = 0; p < CACHE_POSITIONS; p += VEC_WIDTH) {
        vec scale, minimum;
        vec_load_half_pairs(pairs + p, &scale, &minimum);
        float *to = scores + block + p;
        const vec base = group ? vec_fma(minimum, sum, vec_load(to)) : vec_mul(minimum, sum);
        vec_store(to, vec_fma(vec_mul(vec_load(dots + p), of_query), scale, base));
      }
    }
  }
}

// out[:] (+)= sum over p of weights[p] * values[p, :] for one group of elements. The weights fill a whole
// number of blocks.
static void quantized_values_of(const cache_pass *values, size_t group, const float *weights, int accumulate,
                                float *out) {
  const cache_run run = cache_run_of(values, group);
  vec minimums = vec_zero();
  float *totals = values->scratch;
  for (size_t i = 0; i < CACHE_CODES; i++) totals[i] = 0;
  for (size_t block = 0; block < values->positions; block += CACHE_POSITIONS) {
    const size_t end = smaller(CACHE_POSITIONS, values->positions - block);
    uint32_t pairs[CACHE_POSITIONS];
    float scaled[CACHE_POSITIONS], floats[CACHE_CODES];
    cache_collect(&run, block, pairs);
    for (size_t p = 0; p < CACHE_POSITIONS; p += VEC_WIDTH) {
      vec scale, minimum;
      vec_load_half_pairs(pairs + p, &scale, &minimum);
      const vec weight = vec_load(weights + block + p);
      vec_store(scaled + p, vec_mul(weight, scale));
      minimums = vec_fma(weight, minimum, minimums);
    }
    int16_t numbers[CACHE_POSITIONS];
    cache_numbers rounded;
    const vec scale = vec_set1(cache_round(scaled, numbers));
    cache_weights(numbers, &rounded);
    cache_sums sums;
    cache_sums_clear(&sums);
    for (size_t p = 0; p < end; p += 16) {
      uint8_t copy[16 * 32];
      const cache_16 from = cache_take(&run, block + p, copy);
      cache_sums_add(&sums, from.codes, from.stride, &rounded, p);
    }
    cache_sums_floats(&sums, floats);
    for (size_t i = 0; i < CACHE_CODES; i += VEC_WIDTH) {
      vec_store(totals + i, vec_fma(scale, vec_load(floats + i), vec_load(totals + i)));
    }
  }
  const float minimum = vec_sum(minimums);
  for (size_t b = 0; b < run.bytes; b++) {
    const float low = totals[b] + minimum, high = totals[CACHE_CODES / 2 + b] + minimum;
    out[b] = accumulate ? out[b] + low : low;
    out[run.bytes + b] = accumulate ? out[run.bytes + b] + high : high;
  }
}

// All groups.
static void quantized_values(const cache_pass *values, const float *weights, int accumulate, float *out) {
  for (size_t group = 0; group * TANDEM_GROUP_INPUTS < values->head_dim; group++) {
    quantized_values_of(values, group, weights, accumulate, out + group * TANDEM_GROUP_INPUTS);
  }
}
