#include "QuantizedCache.cuh"
#include "Ring.cuh"

// Attention of decode steps with many rows, bound by reading the KV cache: what `attention_decode` does, but
// no sequence is cut (9.0 and newer).
//
// A block takes a row's head, then another. Keys and values of a head lie one behind the other, so a stage is
// two copies, of 4 KB, or 2 of a cache in 4 bits, which is expanded in registers. Each of eight warps has
// shared memory for one stage, into which it has every eighth chunk of the positions copied as soon as it has
// used the one before, the next head's behind the present one's: the memory never waits for a head to end.
//
// Scores and weighted values are products of the tensor cores, in which the query and the weights fill one
// column: with the threads' own multiplications, and the conversions to fp32 before them, computing took a
// quarter longer than reading. Every warp keeps its own maximum, sum of weights and weighted values, which
// are joined at a head's end. The row's own key and value, which the kernel in front has just written, are
// taken by one warp, which stores them into the cache.
//
// What earlier steps have left in the cache is asked for before the kernels in front have ended.
//
// Grid: min(rows * heads, 3 for each multiprocessor). Block: TANDEM_GPU_ATTENTION_ROWS_BLOCK. Dynamic shared
// memory: TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES. No two rows have the same cache. Its lines begin at 16
// bytes, and so many bytes of a cache in 4 bits may be read, but not used, behind what is there.

#if __CUDA_ARCH__ >= 900

namespace attention_rows {

constexpr int WARPS = TANDEM_GPU_ATTENTION_ROWS_BLOCK / 32;
// The maximum over nothing, and a score that is not there: so much lower that its weight is 0 even so. Both
// finite, as infinity less infinity is none.
constexpr float LOWEST = -1.0e38f, NO_SCORE = -3.0e38f;

/// Where a row's head lies.
template <uint32_t POSITION_BYTES>
struct Item {
  uint32_t row, head, position;
  unsigned char *keys, *values;  // of position 0

  __device__ __forceinline__ Item(const tandem_gpu_attention_decode &a, uint32_t index)
      : row(index / a.heads), head(index % a.heads) {
    const tandem_gpu_row *r = as<const tandem_gpu_row>(a.rows) + row;
    const size_t line = size_t(r->capacity) * POSITION_BYTES, plane = a.cache_heads * line;
    position = r->position;
    keys = as<unsigned char>(r->cache) + 2 * a.layer * plane + (a.first_head + head) * line;
    values = keys + plane;
  }
};

__device__ __forceinline__ uint32_t word(const uint4 &v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/// The halves at the same place of two words, as a pair.
__device__ __forceinline__ uint32_t pair(uint32_t first, uint32_t second, int half) {
  return __byte_perm(first, second, half == 0 ? 0x5410 : 0x7632);
}

__device__ __forceinline__ float2 to_floats(uint32_t word) {
  return __half22float2(reinterpret_cast<const __half2 &>(word));
}

/// How a cache in fp16 is read: a chunk is eight elements of a position, as pairs.
template <int DIMENSION>
struct Halves {
  static constexpr uint32_t POSITION_BYTES = 2 * DIMENSION;
  static constexpr int CHUNKS = DIMENSION / 8;
  static constexpr int POSITIONS = DIMENSION <= 64 ? 32 : 16;  // of a stage
  // Where it keeps the lanes that are served together on different banks, those of odd positions take
  // neighbouring chunks in the other order.
  static constexpr bool SWAPS = CHUNKS % 8 == 0;

  static __device__ __forceinline__ uint4 chunk(const unsigned char *positions, uint32_t position,
                                                uint32_t number) {
    return reinterpret_cast<const uint4 *>(positions)[position * CHUNKS + number];
  }

  /// Of a query.
  static __device__ __forceinline__ uint4 chunk(const __half *from, uint32_t number) {
    return __ldcg(reinterpret_cast<const uint4 *>(from) + number);
  }

  /// A lane's chunk of the row's own key or value.
  struct Own {
    uint4 bits;
    __device__ __forceinline__ Own(const __half *from, uint32_t number) : bits(chunk(from, number)) {}
    __device__ __forceinline__ uint4 pairs() const { return bits; }
    __device__ __forceinline__ void store(unsigned char *position, uint32_t number) const {
      reinterpret_cast<uint4 *>(position)[number] = bits;
    }
    /// The chunk that another lane has.
    __device__ __forceinline__ uint4 pairs(uint32_t lane) const {
      return make_uint4(__shfl_sync(~0u, bits.x, lane), __shfl_sync(~0u, bits.y, lane),
                        __shfl_sync(~0u, bits.z, lane), __shfl_sync(~0u, bits.w, lane));
    }
  };

  /// Which word, and which half of it, has element e of the chunk's first four; the others are two words
  /// behind.
  static constexpr __device__ __forceinline__ int word_of(int e) { return e / 2; }
  static constexpr __device__ __forceinline__ int half_of(int e) { return e % 2; }
  /// Where the chunk's first four elements and the others are.
  static __device__ __forceinline__ uint2 places(uint32_t number) {
    return make_uint2(8 * number, 8 * number + 4);
  }
};

/// The same in 4 bits, where a chunk is a word of codes.
template <int DIMENSION>
struct FourBits {
  static constexpr uint32_t POSITION_BYTES = quantized_cache::position_bytes(DIMENSION);
  static constexpr int CHUNKS = DIMENSION / 8;
  static constexpr int POSITIONS = DIMENSION <= 64 ? 64 : 32;
  static constexpr bool SWAPS = false;

  static __device__ __forceinline__ uint4 chunk(const unsigned char *positions, uint32_t position,
                                                uint32_t number) {
    const uint32_t *words = reinterpret_cast<const uint32_t *>(positions) + position * (POSITION_BYTES / 4);
    return quantized_cache::expand({words[number], words[quantized_cache::scales_word(number, DIMENSION)]});
  }

  static __device__ __forceinline__ uint4 chunk(const __half *from, uint32_t number) {
    return quantized_cache::pairs_like_expanded(from, number, DIMENSION);
  }

  struct Own {
    quantized_cache::Rounded rounded;
    __device__ __forceinline__ Own(const __half *from, uint32_t number)
        : rounded(quantized_cache::round(from, number, DIMENSION)) {}
    __device__ __forceinline__ uint4 pairs() const { return quantized_cache::expand(rounded); }
    __device__ __forceinline__ void store(unsigned char *position, uint32_t number) const {
      quantized_cache::store(reinterpret_cast<uint32_t *>(position), number, DIMENSION, rounded);
    }
    __device__ __forceinline__ uint4 pairs(uint32_t lane) const {
      return quantized_cache::expand(
          {__shfl_sync(~0u, rounded.codes, lane), __shfl_sync(~0u, rounded.scales, lane)});
    }
  };

  static constexpr __device__ __forceinline__ int word_of(int e) { return e % 2; }
  static constexpr __device__ __forceinline__ int half_of(int e) { return e / 2; }
  static __device__ __forceinline__ uint2 places(uint32_t number) {
    const quantized_cache::Place place = quantized_cache::place(number, DIMENSION);
    return make_uint2(place.low, place.high);
  }
};

template <typename Cache, int DIMENSION>
__device__ __forceinline__ void attend(const tandem_gpu_attention_decode &a) {
  constexpr int CHUNKS = Cache::CHUNKS, POSITIONS = Cache::POSITIONS, TILES = POSITIONS / 16;
  constexpr int FOURS = (CHUNKS + 3) / 4, EIGHTS = (CHUNKS + 7) / 8;
  constexpr uint32_t POSITION_BYTES = Cache::POSITION_BYTES, PLANE_BYTES = POSITIONS * POSITION_BYTES;
  using Item = Item<POSITION_BYTES>;
  static_assert(WARPS * 2 * PLANE_BYTES <= TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES, "stages fit");
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ uint64_t barriers[WARPS];
  __shared__ __align__(16) float sums[WARPS * DIMENSION], maxima[WARPS], totals[WARPS];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t item_count = a.row_count * a.heads;
  const uint32_t barrier = ring::shared_address(barriers + warp);
  const uint64_t policy = ring::evict_first();
  // Lane 0 alone asks for copies: of this chunk of this item, which is the warp's next one. Chunks are
  // counted on from item to item, and every eighth one is the warp's.
  uint32_t next_index = blockIdx.x, next_chunk = warp;
  auto copy_next = [&] {
    for (; next_index < item_count; next_index += gridDim.x) {
      const Item item(a, next_index);
      const uint32_t count = (item.position + POSITIONS - 1) / POSITIONS;
      if (next_chunk >= count) {
        next_chunk -= count;
        continue;
      }
      const uint32_t first = next_chunk * POSITIONS;
      // Copies are of whole 16 bytes, and so are lines.
      const uint32_t bytes =
          (min(item.position - first, uint32_t(POSITIONS)) * POSITION_BYTES + 15) / 16 * 16;
      const uint32_t to = ring::shared_address(memory) + warp * 2 * PLANE_BYTES;
      ring::expect_bytes(barrier, 2 * bytes);
      const size_t offset = size_t(first) * POSITION_BYTES;
      ring::copy_bytes(to, item.keys + offset, bytes, barrier, policy);
      ring::copy_bytes(to + PLANE_BYTES, item.values + offset, bytes, barrier, policy);
      next_chunk += WARPS;
      return;
    }
  };
  if (lane == 0) {
    ring::initialize_barrier(barrier, 1);
    ring::publish_barriers();
    copy_next();
  }
  __syncwarp();

  // Which chunk of a key a lane reads j-th. Where odd positions take another one, column 0 of the query fits
  // the even positions, column 1 the odd ones.
  constexpr bool SWAPS = Cache::SWAPS;
  auto chunk_of = [&](int j) { return t + 4 * (SWAPS ? j ^ (g & 1) : j); };
  const uint4 zeros = make_uint4(0, 0, 0, 0);
  const uint8_t *stage_keys = memory + warp * 2 * PLANE_BYTES, *stage_values = stage_keys + PLANE_BYTES;
  const size_t width = size_t(a.piece_heads) * DIMENSION;
  const float scale = a.scale * LOG2_E;
  uint32_t parity = 0, chunks_before = 0;  // of the items in front
  wait_for_predecessors();
  for (uint32_t index = blockIdx.x; index < item_count; index += gridDim.x) {
    const Item item(a, index);
    const uint32_t position = item.position, chunk_count = (position + POSITIONS - 1) / POSITIONS;
    const __half *own = as<const __half>(a.qkv) + item.row * 3 * width + item.head * DIMENSION;
    uint4 query[FOURS];
#pragma unroll
    for (int j = 0; j < FOURS; j++) {
      const uint32_t part = chunk_of(j);
      query[j] = g < (SWAPS ? 2 : 1) && part < CHUNKS ? Cache::chunk(own, part) : zeros;
    }

    // Of the stages so far: the scores' maximum in powers of 2, the sum of this lane's weights, and in lanes
    // with t = 0 the weighted values at elements e ([h][e][0]) and 4 + e ([h][e][2]) of chunk g + 8h.
    float maximum = LOWEST, total = 0.0f, sum[EIGHTS][4][4] = {};
    auto raise = [&](float to) {
      if (to == maximum) return;
      const float correction = exponential2(maximum - to);
      maximum = to;
      total *= correction;
#pragma unroll
      for (int h = 0; h < EIGHTS; h++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sum[h][e][0] *= correction, sum[h][e][2] *= correction;
      }
    };
    for (uint32_t chunk = (warp - chunks_before) % WARPS; chunk < chunk_count; chunk += WARPS) {
      ring::wait(barrier, parity);
      parity ^= 1;
      const uint32_t there = position - chunk * POSITIONS;  // positions from here on
      // Scores of positions g and g + 8 of each tile, in all four lanes of g.
      float scores[TILES][2], highest = maximum;
#pragma unroll
      for (int n = 0; n < TILES; n++) {
        float products[4] = {};
#pragma unroll
        for (int j = 0; j < FOURS; j++) {
          const uint32_t part = chunk_of(j);
          const uint4 low = part < CHUNKS ? Cache::chunk(stage_keys, 16 * n + g, part) : zeros;
          const uint4 high = part < CHUNKS ? Cache::chunk(stage_keys, 16 * n + g + 8, part) : zeros;
          const uint32_t first[4] = {low.x, high.x, low.y, high.y};
          const uint32_t second[4] = {low.z, high.z, low.w, high.w};
          multiply_add_16x8x16(products, first, query[j].x, query[j].y);
          multiply_add_16x8x16(products, second, query[j].z, query[j].w);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const float product = SWAPS && g % 2 == 1 ? products[2 * i + 1] : products[2 * i];
          const float score = __shfl_sync(~0u, product, lane & ~3u) * scale;
          scores[n][i] = 16 * n + g + 8 * i < there ? score : NO_SCORE;
          highest = fmaxf(highest, scores[n][i]);
        }
      }
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) {
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, distance));
      }
      raise(highest);
#pragma unroll
      for (int n = 0; n < TILES; n++) {
        const float low = __half2float(__float2half_rn(exponential2(scores[n][0] - maximum)));
        const float high = __half2float(__float2half_rn(exponential2(scores[n][1] - maximum)));
        if (t == 0) total += low + high;
        // The weights as the values' products want them: positions 4t ... 4t + 3, in column 0.
        float weights[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          weights[i] = __shfl_sync(~0u, t % 2 == 0 ? low : high, 4 * ((4 * t + i) & 7) + t / 2);
        }
        uint32_t column[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const __half2 both = __floats2half2_rn(weights[2 * i], weights[2 * i + 1]);
          column[i] = g == 0 ? reinterpret_cast<const uint32_t &>(both) : 0;
        }
#pragma unroll
        for (int h = 0; h < EIGHTS; h++) {
          const uint32_t part = g + 8 * h;
          uint4 v[4];
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const uint32_t p = 16 * n + 4 * t + i;
            v[i] = p < there && part < CHUNKS ? Cache::chunk(stage_values, p, part) : zeros;
          }
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int w = Cache::word_of(e), half = Cache::half_of(e);
            const uint32_t dimensions[4] = {
                pair(word(v[0], w), word(v[1], w), half),
                pair(word(v[0], w + 2), word(v[1], w + 2), half),
                pair(word(v[2], w), word(v[3], w), half),
                pair(word(v[2], w + 2), word(v[3], w + 2), half),
            };
            multiply_add_16x8x16(sum[h][e], dimensions, column[0], column[1]);
          }
        }
      }
      __syncwarp();
      if (lane == 0) {
        ring::release_to_copies();
        copy_next();
      }
      __syncwarp();
    }
    // The new position's turn is the warp's whose chunk would be next.
    if (warp == (chunks_before + chunk_count) % WARPS) {
      const uint32_t number = min(lane, uint32_t(CHUNKS - 1));
      const typename Cache::Own key(own + width, number), value(own + 2 * width, number);
      float score = 0.0f;
      if (lane < CHUNKS) {
        const size_t offset = size_t(position) * POSITION_BYTES;
        key.store(item.keys + offset, lane);
        value.store(item.values + offset, lane);
        const uint4 q = Cache::chunk(own, lane), k = key.pairs();
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float2 x = to_floats(word(q, i)), y = to_floats(word(k, i));
          score += x.x * y.x + x.y * y.y;
        }
      }
      score = warp_sum(score) * scale;
      raise(fmaxf(maximum, score));
      const float weight = exponential2(score - maximum);
      if (lane == 0) total += weight;
#pragma unroll
      for (int h = 0; h < EIGHTS; h++) {
        const uint4 v = value.pairs(min(g + 8 * h, uint32_t(CHUNKS - 1)));
        if (g + 8 * h >= CHUNKS) continue;
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int w = Cache::word_of(e), half = Cache::half_of(e);
          const float2 first = to_floats(word(v, w)), second = to_floats(word(v, w + 2));
          sum[h][e][0] += weight * (half == 0 ? first.x : first.y);
          sum[h][e][2] += weight * (half == 0 ? second.x : second.y);
        }
      }
    }
    chunks_before += chunk_count;

    // The warps' sums, [warp][DIMENSION], when those of the item in front have been read.
    total = warp_sum(total);
    __syncthreads();
#pragma unroll
    for (int h = 0; h < EIGHTS; h++) {
      if (t != 0 || g + 8 * h >= CHUNKS) continue;
      const uint2 places = Cache::places(g + 8 * h);
      float4 *to = reinterpret_cast<float4 *>(sums + warp * DIMENSION);
      to[places.x / 4] = make_float4(sum[h][0][0], sum[h][1][0], sum[h][2][0], sum[h][3][0]);
      to[places.y / 4] = make_float4(sum[h][0][2], sum[h][1][2], sum[h][2][2], sum[h][3][2]);
    }
    if (lane == 0) maxima[warp] = maximum, totals[warp] = total;
    __syncthreads();
    const uint32_t d = threadIdx.x;
    if (d < DIMENSION) {
      float joined_maximum = LOWEST, joined_total = 0.0f, joined_sum = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) joined_maximum = fmaxf(joined_maximum, maxima[w]);
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        const float weight = exponential2(maxima[w] - joined_maximum);
        joined_total += weight * totals[w];
        joined_sum += weight * sums[w * DIMENSION + d];
      }
      as<__half>(a.out)[(size_t(item.row) * a.piece_heads + item.head) * DIMENSION + d] =
          __float2half_rn(joined_sum / joined_total);
    }
    __syncwarp();
  }
}

}  // namespace attention_rows

#define ATTENTION_ROWS(name, Cache, dimension)                                     \
  extern "C" __global__ void __launch_bounds__(TANDEM_GPU_ATTENTION_ROWS_BLOCK, 3) \
      tandem_kernel_attention_rows_##name##dimension(                              \
          const __grid_constant__ tandem_gpu_attention_decode a) {                 \
    launch_successors();                                                           \
    attention_rows::attend<attention_rows::Cache<dimension>, dimension>(a);        \
  }

ATTENTION_ROWS(, Halves, 64)
ATTENTION_ROWS(, Halves, 80)
ATTENTION_ROWS(, Halves, 128)
ATTENTION_ROWS(4_bits_, FourBits, 64)
ATTENTION_ROWS(4_bits_, FourBits, 80)
ATTENTION_ROWS(4_bits_, FourBits, 128)

#endif
