#include "QuantizedCache.cuh"

// out = softmax(scale * q . keys^T) . values for one query a row, bound by reading the KV cache.
//
// A block takes TANDEM_GPU_ATTENTION_PART positions of one head. The 8 or 16 lanes of a group hold one
// position's key at a time, eight elements each, and its value in the same places, so that a thread meets the
// same positions in both products: their scores never leave registers. All keys and values are asked for
// before the first is used, by way of `Halves` or `FourBits`.
//
// Nothing is read from the cache at or behind the row's position: the row's own new key and value stand for
// all of these, at no weight but for the first.
//
// How to launch it: tandem_kernel_attention_decode_<head dimension>, for any other up to 256 `_any`; for a
// cache in 4 bits tandem_kernel_attention_decode_4_bits_<...>. Grid: (part_count, heads, rows), with
// part_count > the largest position / TANDEM_GPU_ATTENTION_PART; blocks behind a row's last part exit at
// once, but each costs a launch. Block: ATTENTION_DECODE_THREADS. Dynamic shared memory: none. Cache and qkv
// begin at 16 bytes. No two rows have the same cache.

#define ATTENTION_DECODE_THREADS 256
#define ATTENTION_DECODE_SHARED_BYTES 0

namespace attention_decode {

constexpr int THREADS = ATTENTION_DECODE_THREADS, WARPS = THREADS / 32, PART = TANDEM_GPU_ATTENTION_PART;
// The maximum over nothing, and a score that is not there: so much lower that its weight is 0 even so. Both
// finite, as infinity less infinity is none.
constexpr float LOWEST = -1.0e38f, NO_SCORE = -3.0e38f;

/// 16 bytes around the L1 cache, in program order. Not through the read-only path: an earlier kernel of the
/// step may still have been writing them when this one started.
__device__ __forceinline__ uint4 load_from_l2(const __half *pointer) {
  uint4 value;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(pointer)
               : "memory");
  return value;
}

__device__ __forceinline__ void copy_in_background(uint4 *to, const __half *from) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}

/// The first of 16 bytes, and zeros behind them.
__device__ __forceinline__ void copy_in_background(uint4 *to, const void *from, uint32_t count) {
  copy_or_clear(uint32_t(__cvta_generic_to_shared(to)), from, count);
}

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// A block's work: a part of the positions that one row's head sees.
struct Work {
  uint32_t row, head, part, part_count;  // parts that the row has
  uint32_t first, position;              // of the part; of the row's new token
  const __half *query, *own_key, *own_value;
  unsigned char *keys, *values;  // of position 0

  /// Only behind `wait_for_predecessors`.
  __device__ __forceinline__ Work(const tandem_gpu_attention_decode &a, uint32_t dimension,
                                  uint32_t position_bytes)
      : row(blockIdx.z), head(blockIdx.y), part(blockIdx.x) {
    const tandem_gpu_row *r = as<const tandem_gpu_row>(a.rows) + row;
    unsigned char *cache = as<unsigned char>(a.on_host ? r->host_cache : r->cache);
    const size_t capacity = r->capacity;
    position = r->position;
    part_count = position / PART + 1;
    first = part * PART;
    const size_t width = size_t(a.piece_heads) * dimension;
    query = as<const __half>(a.qkv) + row * 3 * width + head * dimension;
    own_key = query + width;
    own_value = own_key + width;
    const size_t line = capacity * position_bytes, plane = a.cache_heads * line;
    keys = cache + 2 * a.layer * plane + (a.first_head + head) * line;
    values = keys + plane;
  }

  /// Joins the row's parts, in order, in whichever block is the last one to come here: all threads do. Thread
  /// d has this part's sum of weighted values at dimension d, all have the weights' sum and the scores'
  /// maximum, in powers of 2.
  __device__ __forceinline__ void finish(const tandem_gpu_attention_decode &a, uint32_t dimension,
                                         float maximum, float total, float sum) const {
    const uint32_t d = threadIdx.x;
    const size_t index = size_t(row) * a.heads + head;
    __half *out = as<__half>(a.out) + (size_t(row) * a.piece_heads + head) * dimension;
    if (part_count == 1) {
      if (d < dimension) out[d] = __float2half_rn(sum / total);
      return;
    }

    const uint32_t stride = dimension + 2;
    float *partials = as<float>(a.partials) + index * a.part_count * stride;
    if (d < dimension) __stcg(partials + part * stride + d, sum);
    if (d == 0) {
      __stcg(partials + part * stride + dimension, maximum);
      __stcg(partials + part * stride + dimension + 1, total);
    }
    __shared__ bool is_last;
    __syncthreads();
    if (d == 0) {
      uint32_t *counter = as<uint32_t>(a.counters) + index;
      __threadfence();
      is_last = atomicAdd(counter, 1) == part_count - 1;
      __threadfence();
      if (is_last) *counter = 0;
    }
    __syncthreads();
    if (!is_last || d >= dimension) return;

    constexpr int TOGETHER = 8;  // parts that are read at a time
    float joined_maximum = LOWEST, joined_total = 0.0f, joined_sum = 0.0f;
    for (uint32_t begin = 0; begin < part_count; begin += TOGETHER) {
      float maxima[TOGETHER], totals[TOGETHER], sums[TOGETHER];
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        const bool is_there = begin + i < part_count;
        const float *from = partials + (is_there ? begin + i : begin) * stride;
        maxima[i] = __ldcg(from + dimension);
        totals[i] = __ldcg(from + dimension + 1);
        sums[i] = __ldcg(from + d);
        if (!is_there) maxima[i] = LOWEST, totals[i] = sums[i] = 0.0f;
      }
      float new_maximum = joined_maximum;
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) new_maximum = fmaxf(new_maximum, maxima[i]);
      const float correction = exponential2(joined_maximum - new_maximum);
      joined_maximum = new_maximum;
      joined_total *= correction;
      joined_sum *= correction;
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        const float weight = exponential2(maxima[i] - new_maximum);
        joined_total += weight * totals[i];
        joined_sum += weight * sums[i];
      }
    }
    out[d] = __float2half_rn(joined_sum / joined_total);
  }
};

/// How a block's threads share the positions of its part.
template <int DIMENSION>
struct Shares {
  static constexpr int CHUNKS = DIMENSION / 8;        // of eight elements in a key
  static constexpr int LANES = CHUNKS <= 8 ? 8 : 16;  // of a group
  static constexpr int GROUPS = THREADS / LANES;      // positions that the block has at a time
  static constexpr int COUNT = PART / GROUPS;         // positions of a group
  static_assert(DIMENSION % 8 == 0 && CHUNKS <= LANES && DIMENSION <= THREADS, "lanes hold a key");

  /// Lanes without a chunk repeat the last one, with a query of zeros.
  static __device__ __forceinline__ bool has_chunk() { return threadIdx.x % LANES < CHUNKS; }
  static __device__ __forceinline__ uint32_t chunk() {
    return min(threadIdx.x % LANES, uint32_t(CHUNKS - 1));
  }
};

/// A thread's keys and values in fp16. Keys come to registers, values to shared memory, where each thread
/// reads back only what it copied itself: there is no barrier.
template <int DIMENSION>
struct Halves : Shares<DIMENSION> {
  using Shares = Shares<DIMENSION>;
  using Shares::COUNT, Shares::GROUPS;
  static constexpr uint32_t POSITION_BYTES = 2 * DIMENSION;
  struct Memory {
    uint4 values[COUNT * THREADS];
  };

  const Work &work;
  Memory &memory;
  uint32_t first, offset;  // its group's first position, the thread's first element
  uint4 keys[COUNT];

  __device__ __forceinline__ Halves(const Work &work, Memory &memory)
      : work(work),
        memory(memory),
        first(work.first + threadIdx.x / Shares::LANES),
        offset(8 * Shares::chunk()) {}

  /// Where the thread's first four elements and the others are, and which of its numbers is the i-th of them.
  __device__ __forceinline__ uint2 places() const { return make_uint2(offset, offset + 4); }
  static __device__ __forceinline__ constexpr int number(int i) { return i; }

  __device__ __forceinline__ __half *at(unsigned char *line, uint32_t position) const {
    return reinterpret_cast<__half *>(line) + (size_t(position) * DIMENSION + offset);
  }

  /// Asks for what earlier steps have left in the cache.
  __device__ __forceinline__ void ask() {
    const __half *old_keys = at(work.keys, first), *old_values = at(work.values, first);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      keys[i] = make_uint4(0, 0, 0, 0);
      if (first + i * GROUPS < work.position) keys[i] = load_from_l2(old_keys + i * GROUPS * DIMENSION);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (first + i * GROUPS < work.position) {
        copy_in_background(memory.values + i * THREADS + threadIdx.x, old_values + i * GROUPS * DIMENSION);
      }
    }
  }

  __device__ __forceinline__ void ask_for_own() {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (first + i * GROUPS >= work.position) {
        keys[i] = load_from_l2(work.own_key + offset);
        copy_in_background(memory.values + i * THREADS + threadIdx.x, work.own_value + offset);
      }
    }
  }

  __device__ __forceinline__ void query(float to[8]) const {
    to_floats(to, load_from_l2(work.query + offset));
  }

  __device__ __forceinline__ void wait_for_keys() const {}
  __device__ __forceinline__ void wait_for_values() const { wait_for_copies(); }

  /// The i-th position's key; the row's own goes into the cache, too.
  __device__ __forceinline__ void key(int i, float to[8]) const {
    const uint32_t position = first + i * GROUPS;
    if (position == work.position && Shares::has_chunk()) {
      *reinterpret_cast<uint4 *>(at(work.keys, position)) = keys[i];
    }
    to_floats(to, keys[i]);
  }

  __device__ __forceinline__ void value(int i, float to[8]) const {
    const uint4 bits = memory.values[i * THREADS + threadIdx.x];
    const uint32_t position = first + i * GROUPS;
    if (position == work.position && Shares::has_chunk()) {
      *reinterpret_cast<uint4 *>(at(work.values, position)) = bits;
    }
    to_floats(to, bits);
  }
};

/// The same in 4 bits: the part's keys are one run of bytes, and its values another, which the block copies
/// to shared memory as they lie; threads expand them there. Whole runs, as a position's bytes are no multiple
/// of 16.
template <int DIMENSION>
struct FourBits : Shares<DIMENSION> {
  using Shares = Shares<DIMENSION>;
  using Shares::COUNT, Shares::GROUPS, Shares::CHUNKS;
  static constexpr uint32_t POSITION_BYTES = quantized_cache::position_bytes(DIMENSION);
  static constexpr uint32_t WORDS = POSITION_BYTES / 4, RUN = PART * POSITION_BYTES / 16;
  static_assert(PART * POSITION_BYTES % 16 == 0, "runs are whole chunks");
  struct Memory {
    uint4 runs[2][RUN];
    uint32_t own[2][WORDS];
  };

  const Work &work;
  Memory &memory;
  uint32_t first, word;

  __device__ __forceinline__ FourBits(const Work &work, Memory &memory)
      : work(work), memory(memory), first(threadIdx.x / Shares::LANES), word(Shares::chunk()) {}

  __device__ __forceinline__ uint2 places() const {
    const quantized_cache::Place place = quantized_cache::place(word, DIMENSION);
    return make_uint2(place.low, place.high);
  }
  /// In the order of `expand`.
  static __device__ __forceinline__ constexpr int number(int i) {
    return i % 4 == 1 ? i + 1 : i % 4 == 2 ? i - 1 : i;
  }

  __device__ __forceinline__ void ask() {
    const uint32_t count = min(work.position - work.first, uint32_t(PART)) * POSITION_BYTES;
    const size_t offset = size_t(work.first) * POSITION_BYTES;
    for (uint32_t i = threadIdx.x; i < 2 * RUN; i += THREADS) {
      const uint32_t kind = i / RUN, at = 16 * (i % RUN);
      const unsigned char *from = (kind == 0 ? work.keys : work.values) + offset;
      if (at < count) copy_in_background(memory.runs[kind] + i % RUN, from + at, min(16u, count - at));
    }
  }

  /// Rounds the row's own key, by the first warp, and its own value, by the second one.
  __device__ __forceinline__ void ask_for_own() {
    const uint32_t kind = threadIdx.x / 32, own_word = min(threadIdx.x % 32, uint32_t(CHUNKS - 1));
    if (kind > 1 || work.part + 1 < work.part_count) return;
    const quantized_cache::Rounded rounded =
        quantized_cache::round(kind == 0 ? work.own_key : work.own_value, own_word, DIMENSION);
    if (threadIdx.x % 32 >= CHUNKS) return;
    unsigned char *to = (kind == 0 ? work.keys : work.values) + size_t(work.position) * POSITION_BYTES;
    quantized_cache::store(reinterpret_cast<uint32_t *>(to), own_word, DIMENSION, rounded);
    quantized_cache::store(memory.own[kind], own_word, DIMENSION, rounded);
  }

  __device__ __forceinline__ void query(float to[8]) const {
    to_floats(to, quantized_cache::pairs_like_expanded(work.query, word, DIMENSION));
  }

  __device__ __forceinline__ void wait_for_keys() const {
    wait_for_copies();
    __syncthreads();
  }
  __device__ __forceinline__ void wait_for_values() const {}

  __device__ __forceinline__ void key(int i, float to[8]) const { element(0, i, to); }
  __device__ __forceinline__ void value(int i, float to[8]) const { element(1, i, to); }

 private:
  __device__ __forceinline__ void element(int kind, int i, float to[8]) const {
    const uint32_t position = first + i * GROUPS;
    const uint32_t *words = work.first + position < work.position
                                ? reinterpret_cast<const uint32_t *>(memory.runs[kind]) + position * WORDS
                                : memory.own[kind];
    to_floats(to,
              quantized_cache::expand({words[word], words[quantized_cache::scales_word(word, DIMENSION)]}));
  }
};

template <typename Positions, int DIMENSION>
__device__ __forceinline__ void attend(const tandem_gpu_attention_decode &a) {
  constexpr int LANES = Positions::LANES, GROUPS = Positions::GROUPS, COUNT = Positions::COUNT;
  __shared__ typename Positions::Memory memory;
  __shared__ float4 sums[WARPS][DIMENSION / 4];
  __shared__ float maxima[WARPS], totals[WARPS];

  const Work work(a, DIMENSION, Positions::POSITION_BYTES);
  if (work.part >= work.part_count) return;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool has_chunk = Positions::has_chunk();
  const uint32_t first = work.first + threadIdx.x / LANES;  // its group's first position
  Positions positions(work, memory);

  // What earlier steps have left in the cache is asked for before the kernels in front of this one have
  // ended.
  positions.ask();
  wait_for_predecessors();
  positions.ask_for_own();
  float query[8];
  positions.query(query);
#pragma unroll
  for (int j = 0; j < 8; j++) query[j] = has_chunk ? query[j] * (a.scale * LOG2_E) : 0.0f;

  // Scores, then weights relative to the warp's maximum.
  float weights[COUNT], maximum = LOWEST, total = 0.0f;
  positions.wait_for_keys();
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    float key[8], score = 0.0f;
    positions.key(i, key);
#pragma unroll
    for (int j = 0; j < 8; j++) score += query[j] * key[j];
    weights[i] = score;
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
      weights[i] += __shfl_xor_sync(~0u, weights[i], distance);
    }
    if (first + i * GROUPS > work.position) weights[i] = NO_SCORE;
    maximum = fmaxf(maximum, weights[i]);
  }
#pragma unroll
  for (int distance = LANES; distance < 32; distance *= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, distance));
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    weights[i] = exponential2(weights[i] - maximum);
    total += weights[i];
  }

  float sum[8] = {};
  positions.wait_for_values();
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    float value[8];
    positions.value(i, value);
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] += weights[i] * value[j];
  }

  // The warp's sums, then the block's.
#pragma unroll
  for (int distance = LANES; distance < 32; distance *= 2) {
    total += __shfl_xor_sync(~0u, total, distance);
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] += __shfl_xor_sync(~0u, sum[j], distance);
  }
  if (lane < LANES && has_chunk) {
    const uint2 places = positions.places();
    auto number = [&](int i) { return sum[Positions::number(i)]; };
    sums[warp][places.x / 4] = make_float4(number(0), number(1), number(2), number(3));
    sums[warp][places.y / 4] = make_float4(number(4), number(5), number(6), number(7));
  }
  if (lane == 0) maxima[warp] = maximum, totals[warp] = total;
  __syncthreads();
  const uint32_t d = min(threadIdx.x, uint32_t(DIMENSION - 1));
  float block_maximum = LOWEST, block_total = 0.0f, block_sum = 0.0f;
#pragma unroll
  for (int w = 0; w < WARPS; w++) block_maximum = fmaxf(block_maximum, maxima[w]);
#pragma unroll
  for (int w = 0; w < WARPS; w++) {
    const float weight = exponential2(maxima[w] - block_maximum);
    block_total += weight * totals[w];
    block_sum += weight * reinterpret_cast<const float *>(sums[w])[d];
  }
  work.finish(a, DIMENSION, block_maximum, block_total, block_sum);
}

}  // namespace attention_decode

// Three blocks a multiprocessor: with two, 24 rows of 544 positions took 14 % longer; with four, whose
// registers hold fewer of the loads, one row did.
#define ATTENTION_DECODE(name, Positions, dimension)                                \
  extern "C" __global__ void __launch_bounds__(ATTENTION_DECODE_THREADS, 3)         \
      tandem_kernel_attention_decode_##name##dimension(                             \
          const __grid_constant__ tandem_gpu_attention_decode a) {                  \
    launch_successors();                                                            \
    attention_decode::attend<attention_decode::Positions<dimension>, dimension>(a); \
  }

ATTENTION_DECODE(, Halves, 64)
ATTENTION_DECODE(, Halves, 80)
ATTENTION_DECODE(, Halves, 128)
ATTENTION_DECODE(4_bits_, FourBits, 64)
ATTENTION_DECODE(4_bits_, FourBits, 80)
ATTENTION_DECODE(4_bits_, FourBits, 128)

namespace attention_decode {

/// Head dimensions up to 256 that need not be a multiple of 8: a warp a score, then a thread a dimension.
/// `at` gives an element of a position's key or value, of a line in the cache and of the row's own.
template <typename Element>
__device__ __forceinline__ void attend_any(const tandem_gpu_attention_decode &a, const Work &work,
                                           Element &&at) {
  const uint32_t dimension = a.head_dimension, lane = threadIdx.x % 32, d = threadIdx.x;
  __shared__ float scores[PART];
  const uint32_t count = min(work.position + 1 - work.first, uint32_t(PART));
  for (uint32_t p = threadIdx.x / 32; p < count; p += WARPS) {
    float score = 0.0f;
    for (uint32_t i = lane; i < dimension; i += 32) {
      score += __half2float(work.query[i]) * at(work.keys, work.own_key, work.first + p, i);
    }
    score = warp_sum(score);
    if (lane == 0) scores[p] = score * (a.scale * LOG2_E);
  }
  __syncthreads();
  float maximum = LOWEST, total = 0.0f, sum = 0.0f;
  for (uint32_t p = 0; p < count; p++) maximum = fmaxf(maximum, scores[p]);
  for (uint32_t p = 0; p < count; p++) {
    const float weight = exponential2(scores[p] - maximum);
    total += weight;
    if (d < dimension) sum += weight * at(work.values, work.own_value, work.first + p, d);
  }
  work.finish(a, dimension, maximum, total, sum);
}

}  // namespace attention_decode

extern "C" __global__ void __launch_bounds__(ATTENTION_DECODE_THREADS)
    tandem_kernel_attention_decode_any(const __grid_constant__ tandem_gpu_attention_decode a) {
  using namespace attention_decode;
  launch_successors();
  wait_for_predecessors();
  const uint32_t dimension = a.head_dimension;
  const Work work(a, dimension, 2 * dimension);
  if (work.part >= work.part_count) return;
  auto line = [&](unsigned char *cached, uint32_t position) {
    return reinterpret_cast<__half *>(cached) + size_t(position) * dimension;
  };
  if (work.part + 1 == work.part_count && threadIdx.x < dimension) {
    line(work.keys, work.position)[threadIdx.x] = work.own_key[threadIdx.x];
    line(work.values, work.position)[threadIdx.x] = work.own_value[threadIdx.x];
  }
  attend_any(a, work, [&](unsigned char *cached, const __half *own, uint32_t position, uint32_t d) {
    return __half2float(position < work.position ? line(cached, position)[d] : own[d]);
  });
}

extern "C" __global__ void __launch_bounds__(ATTENTION_DECODE_THREADS)
    tandem_kernel_attention_decode_4_bits_any(const __grid_constant__ tandem_gpu_attention_decode a) {
  using namespace attention_decode;
  launch_successors();
  wait_for_predecessors();
  const uint32_t dimension = a.head_dimension, words = quantized_cache::position_bytes(dimension) / 4;
  const Work work(a, dimension, 4 * words);
  if (work.part >= work.part_count) return;
  auto line = [&](unsigned char *cached, uint32_t position) {
    return reinterpret_cast<uint32_t *>(cached) + size_t(position) * words;
  };
  const uint32_t kind = threadIdx.x / 32, lane = threadIdx.x % 32, word = min(lane, dimension / 8 - 1);
  if (work.part + 1 == work.part_count && kind < 2) {
    const quantized_cache::Rounded rounded =
        quantized_cache::round(kind == 0 ? work.own_key : work.own_value, word, dimension);
    if (lane == word) {
      quantized_cache::store(line(kind == 0 ? work.keys : work.values, work.position), word, dimension,
                             rounded);
    }
  }
  __syncthreads();
  attend_any(a, work, [&](unsigned char *cached, const __half *, uint32_t position, uint32_t d) {
    return quantized_cache::element(line(cached, position), d, dimension);
  });
}
