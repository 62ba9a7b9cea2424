#include "QuantizedCache.cuh"

// out = softmax(scale * q . keys^T, causal) . values for segments of many rows, bound by the tensor cores.
//
// A block takes 64 queries of one head, 16 a warp, and goes through the keys 64 at a time up to its last
// query's position; the next tile of keys and values is on its way to shared memory while the present one is
// used. The scores' softmax is kept relative to the running maximum (FlashAttention-2, algorithm 1): a
// query's scores stay in the registers of 4 lanes, and become the second product's operand as fp16 where they
// are.
//
// Lines of shared memory are 16 bytes longer than a key: an odd number of 16 bytes, so that 8 lines' same
// chunk meets no bank twice. Nothing is read of the cache behind the block's last query; zeros stand for it.
//
// A cache in 4 bits comes to shared memory as it lies, a tile ahead too, and is expanded there to the present
// tile's fp16, which all then use: it takes the threads as long as a third of the products.
//
// How to launch it: tandem_kernel_attention_prefill_<head dimension>, for any other up to 256 `_any`; for a
// cache in 4 bits tandem_kernel_attention_prefill_4_bits_<...>. Grid: (ceil(longest segment /
// TANDEM_GPU_ATTENTION_QUERIES), heads, segments). Block: ATTENTION_PREFILL_THREADS. Dynamic shared memory:
// ATTENTION_PREFILL_SHARED_BYTES(head dimension), or that of 4 bits, which may need
// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES; none for `_any`. Cache, its lines and qkv begin at 16
// bytes.

#define ATTENTION_PREFILL_THREADS 128
#define ATTENTION_PREFILL_KEYS 64
// Two tiles of keys and two of values: 36,864 for 64, 45,056 for 80, 69,632 for 128.
#define ATTENTION_PREFILL_SHARED_BYTES(dimension) (4 * ATTENTION_PREFILL_KEYS * (2 * (dimension) + 16))
// One of each, and two in 4 bits: 27,648 for 64, 34,816 for 80, 53,248 for 128.
#define ATTENTION_PREFILL_4_BITS_SHARED_BYTES(dimension) \
  (2 * ATTENTION_PREFILL_KEYS * (2 * (dimension) + 16) + \
   4 * ATTENTION_PREFILL_KEYS * quantized_cache::position_bytes(dimension))

namespace attention_prefill {

constexpr int THREADS = ATTENTION_PREFILL_THREADS, WARPS = THREADS / 32;
constexpr int QUERIES = TANDEM_GPU_ATTENTION_QUERIES, KEYS = ATTENTION_PREFILL_KEYS;
constexpr float NO_SCORE = -3.0e38f;  // finite, as infinity less infinity is none
static_assert(QUERIES == 16 * WARPS && QUERIES == KEYS, "the queries pass through a tile of keys");

__device__ __forceinline__ uint32_t to_halves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t &>(pair);
}

/// A block's work: some queries of one head of a segment.
struct Work {
  uint32_t count = 0;   // of queries
  uint32_t position;    // of the first one
  const __half *query;  // the first one
  __half *out;          // of the first one
  uint32_t query_stride, out_stride;
  const unsigned char *keys, *values;  // of position 0

  /// No queries for a block behind the segment's end. Only behind `wait_for_predecessors`. The last tiles,
  /// which see the most keys, come first.
  __device__ __forceinline__ Work(const tandem_gpu_attention_prefill &a, uint32_t dimension,
                                  uint32_t position_bytes) {
    const tandem_gpu_segment segment = as<const tandem_gpu_segment>(a.segments)[blockIdx.z];
    const uint32_t first = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    if (first >= segment.row_count) return;
    const uint32_t head = blockIdx.y, row = segment.first_row + first;
    count = min(segment.row_count - first, uint32_t(QUERIES));
    const tandem_gpu_row r = as<const tandem_gpu_row>(a.rows)[row];
    position = r.position;
    out_stride = a.piece_heads * dimension;
    query_stride = 3 * out_stride;
    query = as<const __half>(a.qkv) + size_t(row) * query_stride + head * dimension;
    out = as<__half>(a.out) + size_t(row) * out_stride + head * dimension;
    const size_t line = size_t(r.capacity) * position_bytes, plane = a.cache_heads * line;
    keys = as<const unsigned char>(a.on_host ? r.host_cache : r.cache) + 2 * a.layer * plane +
           (a.first_head + head) * line;
    values = keys + plane;
  }
};

/// Asks for a tile's lines, and for zeros from line `count` on.
template <int DIMENSION>
__device__ __forceinline__ void copy_tile(uint32_t to, const __half *from, uint32_t stride, uint32_t count) {
  constexpr int CHUNKS = DIMENSION / 8, LINE_BYTES = 2 * DIMENSION + 16;
  static_assert(KEYS * CHUNKS % THREADS == 0, "whole passes only");
#pragma unroll
  for (int pass = 0; pass < KEYS * CHUNKS / THREADS; pass++) {
    const uint32_t i = pass * THREADS + threadIdx.x, line = i / CHUNKS, chunk = i % CHUNKS;
    const bool is_inside = line < count;
    copy_or_clear(to + line * LINE_BYTES + chunk * 16, from + (is_inside ? line * stride + chunk * 8 : 0),
                  is_inside ? 16 : 0);
  }
}

/// Asks for the first `count` positions of a tile in 4 bits, one run of bytes.
template <int DIMENSION>
__device__ __forceinline__ void copy_run(uint32_t to, const unsigned char *from, uint32_t count) {
  constexpr uint32_t POSITION_BYTES = quantized_cache::position_bytes(DIMENSION);
  static_assert(KEYS * POSITION_BYTES % 16 == 0, "tiles are whole chunks");
  const uint32_t byte_count = min(count, uint32_t(KEYS)) * POSITION_BYTES;
  for (uint32_t at = 16 * threadIdx.x; at < byte_count; at += 16 * THREADS) {
    copy_or_clear(to + at, from + at, min(16u, byte_count - at));
  }
}

__device__ __forceinline__ uint32_t load_shared(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

__device__ __forceinline__ void store_shared(uint32_t address, uint32_t first, uint32_t second) {
  asm volatile("st.shared.v2.u32 [%0], {%1,%2};" ::"r"(address), "r"(first), "r"(second) : "memory");
}

/// Turns a tile in 4 bits into one of fp16, with zeros from line `count` on.
template <int DIMENSION>
__device__ __forceinline__ void expand_tile(uint32_t to, uint32_t from, uint32_t count) {
  constexpr uint32_t WORDS = DIMENSION / 8, LINE_BYTES = 2 * DIMENSION + 16;
  constexpr uint32_t POSITION_BYTES = quantized_cache::position_bytes(DIMENSION);
  static_assert(KEYS * WORDS % THREADS == 0, "whole passes only");
#pragma unroll
  for (int pass = 0; pass < KEYS * WORDS / THREADS; pass++) {
    const uint32_t i = pass * THREADS + threadIdx.x, line = i / WORDS, word = i % WORDS;
    const uint32_t position = from + line * POSITION_BYTES;
    quantized_cache::Rounded rounded = {0, 0};
    if (line < count) {
      rounded.codes = load_shared(position + 4 * word);
      rounded.scales = load_shared(position + 4 * quantized_cache::scales_word(word, DIMENSION));
    }
    const uint4 elements = quantized_cache::reorder(quantized_cache::expand(rounded));
    const quantized_cache::Place place = quantized_cache::place(word, DIMENSION);
    store_shared(to + line * LINE_BYTES + 2 * place.low, elements.x, elements.y);
    store_shared(to + line * LINE_BYTES + 2 * place.high, elements.z, elements.w);
  }
}

/// Waits for the thread's copies, then for the other threads.
__device__ __forceinline__ void wait_for_tiles() {
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
}

template <int DIMENSION, int CACHE_BITS>
__device__ __forceinline__ void attend(const tandem_gpu_attention_prefill &a) {
  constexpr int STEPS = DIMENSION / 16;  // products of 16 dimensions in a score
  constexpr uint32_t LINE_BYTES = 2 * DIMENSION + 16, TILE_BYTES = KEYS * LINE_BYTES;
  static_assert(DIMENSION % 16 == 0 && LINE_BYTES / 16 % 2 == 1, "lines spread over the banks");
  constexpr bool IS_PACKED = CACHE_BITS == 4;
  constexpr uint32_t POSITION_BYTES = IS_PACKED ? quantized_cache::position_bytes(DIMENSION) : 2 * DIMENSION;
  constexpr uint32_t RUN_BYTES = KEYS * POSITION_BYTES;
  extern __shared__ uint4 shared[];
  // [stage][K, V]; of 4 bits [K, V], then [stage][K, V] of runs.
  const uint32_t tiles = uint32_t(__cvta_generic_to_shared(shared)), runs = tiles + 2 * TILE_BYTES;

  const Work work(a, DIMENSION, POSITION_BYTES);
  if (work.count == 0) return;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t key_count = work.position + work.count;
  auto ask = [&](uint32_t first) {
    const unsigned char *keys = work.keys + size_t(first) * POSITION_BYTES;
    const unsigned char *values = work.values + size_t(first) * POSITION_BYTES;
    if constexpr (IS_PACKED) {
      const uint32_t stage = runs + (first / KEYS % 2) * 2 * RUN_BYTES;
      copy_run<DIMENSION>(stage, keys, key_count - first);
      copy_run<DIMENSION>(stage + RUN_BYTES, values, key_count - first);
    } else {
      const uint32_t stage = tiles + (first / KEYS % 2) * 2 * TILE_BYTES;
      copy_tile<DIMENSION>(stage, reinterpret_cast<const __half *>(keys), DIMENSION, key_count - first);
      copy_tile<DIMENSION>(stage + TILE_BYTES, reinterpret_cast<const __half *>(values), DIMENSION,
                           key_count - first);
    }
  };

  // The queries come through the second stage's keys, or those that are expanded when the queries have been
  // read.
  const uint32_t queries = tiles + (IS_PACKED ? 0 : 2 * TILE_BYTES);
  copy_tile<DIMENSION>(queries, work.query, work.query_stride, work.count);
  ask(0);
  wait_for_tiles();
  uint32_t query[STEPS][4];
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    // Matrices: queries 0-7 and 8-15 at dimensions 0-7, then both at 8-15.
    load_matrices(query[step], queries + (16 * warp + lane % 16) * LINE_BYTES + 32 * step + lane / 16 * 16);
  }

  // Lane (g, t) has the queries g and g + 8 of its warp's 16.
  const uint32_t warp_position = work.position + 16 * warp, low_position = warp_position + g;
  const float scale = a.scale * LOG2_E;
  float out[DIMENSION / 8][4] = {};
  float maximum[2] = {NO_SCORE, NO_SCORE}, total[2] = {};
  // Where lanes find their lines of four matrices, [keys 0-7 at dimensions 0-7, at 8-15, keys 8-15 likewise]
  // and, of the values, [dimensions 0-7 of keys 0-7, of 8-15, dimensions 8-15 likewise].
  const uint32_t key_line = (lane / 16 * 8 + lane % 8) * LINE_BYTES + lane / 8 % 2 * 16;
  const uint32_t value_line = TILE_BYTES + (lane % 16) * LINE_BYTES + lane / 16 * 16;

  for (uint32_t first = 0; first < key_count; first += KEYS) {
    // The first time, so that nobody still reads the queries; later, for the tile, and so that nobody still
    // reads the one before, whose place the next one takes.
    wait_for_tiles();
    if (first + KEYS < key_count) ask(first + KEYS);
    if constexpr (IS_PACKED) {
      const uint32_t run = runs + (first / KEYS % 2) * 2 * RUN_BYTES;
      expand_tile<DIMENSION>(tiles, run, key_count - first);
      expand_tile<DIMENSION>(tiles + TILE_BYTES, run + RUN_BYTES, key_count - first);
      __syncthreads();
    }
    if (first > warp_position + 15) continue;
    const uint32_t stage = tiles + (IS_PACKED ? 0 : first / KEYS % 2 * 2 * TILE_BYTES);

    float scores[KEYS / 8][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
      for (int n = 0; n < KEYS / 16; n++) {
        uint32_t keys[4];
        load_matrices(keys, stage + key_line + n * 16 * LINE_BYTES + 32 * step);
        multiply_add_16x8x16(scores[2 * n], query[step], keys[0], keys[1]);
        multiply_add_16x8x16(scores[2 * n + 1], query[step], keys[2], keys[3]);
      }
    }

    if (first + KEYS - 1 > warp_position) {
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (first + 8 * n + 2 * t + i % 2 > low_position + i / 2 * 8) scores[n][i] = NO_SCORE;
        }
      }
    }
    // Every query sees position 0, so that every maximum becomes a score's with the first tile.
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float highest = maximum[half];
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
        highest = fmaxf(highest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      }
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
      const float correction = exponential2((maximum[half] - highest) * scale);
      maximum[half] = highest;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          scores[n][i] = exponential2(scores[n][i] * scale - highest * scale);
          sum += scores[n][i];
        }
      }
      total[half] = total[half] * correction + sum;
#pragma unroll
      for (int n = 0; n < DIMENSION / 8; n++) {
        out[n][2 * half] *= correction;
        out[n][2 * half + 1] *= correction;
      }
    }

#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
      const float *low = scores[2 * step], *high = scores[2 * step + 1];
      const uint32_t weights[4] = {to_halves(low[0], low[1]), to_halves(low[2], low[3]),
                                   to_halves(high[0], high[1]), to_halves(high[2], high[3])};
#pragma unroll
      for (int n = 0; n < STEPS; n++) {
        uint32_t values[4];
        load_matrices_transposed(values, stage + value_line + step * 16 * LINE_BYTES + 32 * n);
        multiply_add_16x8x16(out[2 * n], weights, values[0], values[1]);
        multiply_add_16x8x16(out[2 * n + 1], weights, values[2], values[3]);
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = total[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float factor = 1.0f / sum;
    const uint32_t index = 16 * warp + 8 * half + g;
    if (index >= work.count) continue;
    uint32_t *to = reinterpret_cast<uint32_t *>(work.out + size_t(index) * work.out_stride) + t;
#pragma unroll
    for (int n = 0; n < DIMENSION / 8; n++) {
      to[4 * n] = to_halves(out[n][2 * half] * factor, out[n][2 * half + 1] * factor);
    }
  }
}

}  // namespace attention_prefill

// With registers for three blocks a multiprocessor, head dimension 128 spills, and 512 rows took 39 % longer.
#define ATTENTION_PREFILL(name, cache_bits, dimension)                       \
  extern "C" __global__ void __launch_bounds__(ATTENTION_PREFILL_THREADS, 2) \
      tandem_kernel_attention_prefill_##name##dimension(                     \
          const __grid_constant__ tandem_gpu_attention_prefill a) {          \
    launch_successors();                                                     \
    wait_for_predecessors();                                                 \
    attention_prefill::attend<dimension, cache_bits>(a);                     \
  }

ATTENTION_PREFILL(, 16, 64)
ATTENTION_PREFILL(, 16, 80)
ATTENTION_PREFILL(, 16, 128)
ATTENTION_PREFILL(4_bits_, 4, 64)
ATTENTION_PREFILL(4_bits_, 4, 80)
ATTENTION_PREFILL(4_bits_, 4, 128)

namespace attention_prefill {

/// Head dimensions up to 256 that need not be a multiple of 16: a warp a query, a lane a key, then a lane
/// some dimensions. `at` gives an element of a line.
template <typename Element>
__device__ __forceinline__ void attend_any(const tandem_gpu_attention_prefill &a, const Work &work,
                                           Element &&at) {
  const uint32_t dimension = a.head_dimension, lane = threadIdx.x % 32;
  for (uint32_t index = threadIdx.x / 32; index < work.count; index += WARPS) {
    const __half *query = work.query + size_t(index) * work.query_stride;
    const uint32_t position = work.position + index;
    float out[8] = {}, maximum = NO_SCORE, total = 0.0f;
    for (uint32_t first = 0; first <= position; first += 32) {
      const uint32_t count = min(position + 1 - first, 32u);
      float score = NO_SCORE;
      if (lane < count) {
        score = 0.0f;
        for (uint32_t d = 0; d < dimension; d++) {
          score += __half2float(query[d]) * at(work.keys, first + lane, d);
        }
        score *= a.scale * LOG2_E;
      }
      const float highest = fmaxf(maximum, warp_max(score));
      const float correction = exponential2(maximum - highest), weight = exponential2(score - highest);
      maximum = highest;
      total = total * correction + warp_sum(weight);
#pragma unroll
      for (int i = 0; i < 8; i++) out[i] *= correction;
      for (uint32_t k = 0; k < count; k++) {
        const float of_key = __shfl_sync(~0u, weight, k);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          if (32 * i + lane < dimension) out[i] += of_key * at(work.values, first + k, 32 * i + lane);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t d = 32 * i + lane;
      if (d < dimension) work.out[size_t(index) * work.out_stride + d] = __float2half_rn(out[i] / total);
    }
  }
}

}  // namespace attention_prefill

extern "C" __global__ void __launch_bounds__(ATTENTION_PREFILL_THREADS)
    tandem_kernel_attention_prefill_any(const __grid_constant__ tandem_gpu_attention_prefill a) {
  launch_successors();
  wait_for_predecessors();
  const uint32_t dimension = a.head_dimension;
  const attention_prefill::Work work(a, dimension, 2 * dimension);
  attention_prefill::attend_any(a, work, [&](const unsigned char *line, uint32_t position, uint32_t d) {
    return __half2float(reinterpret_cast<const __half *>(line)[size_t(position) * dimension + d]);
  });
}

extern "C" __global__ void __launch_bounds__(ATTENTION_PREFILL_THREADS)
    tandem_kernel_attention_prefill_4_bits_any(const __grid_constant__ tandem_gpu_attention_prefill a) {
  launch_successors();
  wait_for_predecessors();
  const uint32_t dimension = a.head_dimension, words = quantized_cache::position_bytes(dimension) / 4;
  const attention_prefill::Work work(a, dimension, 4 * words);
  attention_prefill::attend_any(a, work, [&](const unsigned char *line, uint32_t position, uint32_t d) {
    return quantized_cache::element(reinterpret_cast<const uint32_t *>(line) + size_t(position) * words, d,
                                    dimension);
  });
}
