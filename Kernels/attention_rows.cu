#include "Ring.cuh"

// Attention of decode steps with many rows, bound by reading the KV cache: what `attention_decode` does, but
// no sequence is cut (9.0 and newer).
//
// A block takes a row's head, then another. Keys and values of a head lie one behind the other, so a stage is
// two copies of 4 KB. Each of eight warps has shared memory for one stage, into which it has every eighth
// chunk of the positions copied as soon as it has used the one before, the next head's behind the present
// one's: the memory never waits for a head to end.
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
// memory: TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES. No two rows have the same cache.

#if __CUDA_ARCH__ >= 900

namespace attention_rows {

constexpr int WARPS = TANDEM_GPU_ATTENTION_ROWS_BLOCK / 32;
// The maximum over nothing, and a score that is not there: so much lower that its weight is 0 even so. Both
// finite, as infinity less infinity is none.
constexpr float LOWEST = -1.0e38f, NO_SCORE = -3.0e38f;

/// Where a row's head lies.
template <int DIMENSION>
struct Item {
  uint32_t row, head, position;
  __half *keys, *values;  // of position 0

  __device__ __forceinline__ Item(const tandem_gpu_attention_decode &a, uint32_t index)
      : row(index / a.heads), head(index % a.heads) {
    const tandem_gpu_row *r = as<const tandem_gpu_row>(a.rows) + row;
    const size_t capacity = r->capacity, plane = size_t(a.cache_heads) * capacity * DIMENSION;
    position = r->position;
    keys = as<__half>(r->cache) + 2 * a.layer * plane + (a.first_head + head) * capacity * DIMENSION;
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

template <int DIMENSION>
__device__ __forceinline__ void attend(const tandem_gpu_attention_decode &a) {
  constexpr int CHUNKS = DIMENSION / 8;                                         // of 16 bytes in a key
  constexpr int POSITIONS = DIMENSION <= 64 ? 32 : 16, TILES = POSITIONS / 16;  // of a stage
  constexpr int FOURS = (CHUNKS + 3) / 4, EIGHTS = (CHUNKS + 7) / 8;
  constexpr uint32_t PLANE_BYTES = POSITIONS * DIMENSION * 2;
  static_assert(WARPS * 2 * PLANE_BYTES <= TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES, "stages fit");
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ uint64_t barriers[WARPS];
  __shared__ float sums[WARPS * DIMENSION], maxima[WARPS], totals[WARPS];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t item_count = a.row_count * a.heads;
  const uint32_t barrier = ring::shared_address(barriers + warp);
  const uint64_t policy = ring::evict_first();
  // Lane 0 alone asks for copies: of this chunk of this item, which is the warp's next one. Chunks are
  // counted on from item to item, and every eighth one is the warp's.
  uint32_t next_index = blockIdx.x, next_chunk = warp;
  auto copy_next = [&] {
    for (; next_index < item_count; next_index += gridDim.x) {
      const Item<DIMENSION> item(a, next_index);
      const uint32_t count = (item.position + POSITIONS - 1) / POSITIONS;
      if (next_chunk >= count) {
        next_chunk -= count;
        continue;
      }
      const uint32_t first = next_chunk * POSITIONS;
      const uint32_t bytes = min(item.position - first, uint32_t(POSITIONS)) * DIMENSION * 2;
      const uint32_t to = ring::shared_address(memory) + warp * 2 * PLANE_BYTES;
      ring::expect_bytes(barrier, 2 * bytes);
      ring::copy_bytes(to, item.keys + size_t(first) * DIMENSION, bytes, barrier, policy);
      ring::copy_bytes(to + PLANE_BYTES, item.values + size_t(first) * DIMENSION, bytes, barrier, policy);
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

  // Which chunk of a key a lane reads j-th: odd positions take neighbouring fours in the other order where
  // that keeps the lanes that are served together on different banks. Column 0 of the query fits the even
  // positions, column 1 the odd ones.
  constexpr bool SWAPS = CHUNKS % 8 == 0;
  auto chunk_of = [&](int j) { return t + 4 * (SWAPS ? j ^ (g & 1) : j); };
  const uint4 zeros = make_uint4(0, 0, 0, 0);
  const uint4 *stage_keys = reinterpret_cast<const uint4 *>(memory + warp * 2 * PLANE_BYTES);
  const uint4 *stage_values = stage_keys + PLANE_BYTES / 16;
  const size_t width = size_t(a.piece_heads) * DIMENSION;
  const float scale = a.scale * LOG2_E;
  uint32_t parity = 0, chunks_before = 0;  // of the items in front
  wait_for_predecessors();
  for (uint32_t index = blockIdx.x; index < item_count; index += gridDim.x) {
    const Item<DIMENSION> item(a, index);
    const uint32_t position = item.position, chunk_count = (position + POSITIONS - 1) / POSITIONS;
    const uint4 *own = reinterpret_cast<const uint4 *>(as<const __half>(a.qkv) + item.row * 3 * width +
                                                       item.head * DIMENSION);
    uint4 query[FOURS];
#pragma unroll
    for (int j = 0; j < FOURS; j++) {
      const uint32_t part = chunk_of(j);
      query[j] = g < (SWAPS ? 2 : 1) && part < CHUNKS ? __ldcg(own + part) : zeros;
    }

    // Of the chunks so far: the scores' maximum in powers of 2, the sum of this lane's weights, and in lanes
    // with t = 0 the weighted values at dimensions 8g + 64h + e ([h][e][0]) and 4 behind ([h][e][2]).
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
          const uint4 low = part < CHUNKS ? stage_keys[(16 * n + g) * CHUNKS + part] : zeros;
          const uint4 high = part < CHUNKS ? stage_keys[(16 * n + g + 8) * CHUNKS + part] : zeros;
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
            v[i] = p < there && part < CHUNKS ? stage_values[p * CHUNKS + part] : zeros;
          }
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const uint32_t dimensions[4] = {
                pair(word(v[0], e / 2), word(v[1], e / 2), e % 2),
                pair(word(v[0], e / 2 + 2), word(v[1], e / 2 + 2), e % 2),
                pair(word(v[2], e / 2), word(v[3], e / 2), e % 2),
                pair(word(v[2], e / 2 + 2), word(v[3], e / 2 + 2), e % 2),
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
      const uint4 *key = own + width / 8, *value = key + width / 8;
      float score = 0.0f;
      if (lane < CHUNKS) {
        const uint4 q = __ldcg(own + lane), k = __ldcg(key + lane);
        reinterpret_cast<uint4 *>(item.keys + size_t(position) * DIMENSION)[lane] = k;
        reinterpret_cast<uint4 *>(item.values + size_t(position) * DIMENSION)[lane] = __ldcg(value + lane);
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
        const uint32_t part = g + 8 * h;
        if (part >= CHUNKS) continue;
        const uint4 v = __ldcg(value + part);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const float2 first = to_floats(word(v, e / 2)), second = to_floats(word(v, e / 2 + 2));
          sum[h][e][0] += weight * (e % 2 == 0 ? first.x : first.y);
          sum[h][e][2] += weight * (e % 2 == 0 ? second.x : second.y);
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
      float4 *to = reinterpret_cast<float4 *>(sums + warp * DIMENSION + 8 * (g + 8 * h));
      to[0] = make_float4(sum[h][0][0], sum[h][1][0], sum[h][2][0], sum[h][3][0]);
      to[1] = make_float4(sum[h][0][2], sum[h][1][2], sum[h][2][2], sum[h][3][2]);
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

#define ATTENTION_ROWS(dimension)                                                                       \
  extern "C" __global__ void __launch_bounds__(TANDEM_GPU_ATTENTION_ROWS_BLOCK, 3)                      \
      tandem_kernel_attention_rows_##dimension(const __grid_constant__ tandem_gpu_attention_decode a) { \
    launch_successors();                                                                                \
    attention_rows::attend<dimension>(a);                                                               \
  }

ATTENTION_ROWS(64)
ATTENTION_ROWS(80)
ATTENTION_ROWS(128)

#endif
