#include "Ring.cuh"

// Attention of decode steps with many rows, bound by reading the KV cache: what `attention_decode` does, one
// block for a row's head (9.0 and newer).
//
// Keys and values of a head lie one behind the other, so a stage is two copies of 4 KB. Each of eight warps
// has a stage for itself, and takes every eighth chunk of the positions; the lanes of a group hold one
// position's key or value, 16 bytes each. Every group keeps its own maximum, sum of weights and weighted
// values; they are joined at the end. The row's own key and value, which the kernel in front has just
// written, are taken by one group when all others are done with the cache, and stored into it.
//
// What earlier steps have left in the cache is asked for before the kernels in front have ended.
//
// Grid: (heads, rows). Block: TANDEM_GPU_ATTENTION_ROWS_BLOCK. Dynamic shared memory:
// TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES. No two rows have the same cache.

#if __CUDA_ARCH__ >= 900

namespace attention_rows {

constexpr int WARPS = TANDEM_GPU_ATTENTION_ROWS_BLOCK / 32 - 1;
// The maximum over nothing: finite, as infinity less infinity is none.
constexpr float LOWEST = -1.0e38f;

__device__ __forceinline__ void to_floats(float to[8], const uint4 &from) {
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = __half22float2(reinterpret_cast<const __half2 &>(words[i]));
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

/// What one group has seen: the scores' maximum in powers of 2, the weights' sum, its lane's weighted values.
struct State {
  float maximum = LOWEST, total = 0.0f, sum[8] = {};

  __device__ __forceinline__ void raise(float to) {
    const float correction = exponential2(maximum - to);
    maximum = to;
    total *= correction;
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] *= correction;
  }

  __device__ __forceinline__ void add(float weight, const uint4 &value) {
    float values[8];
    to_floats(values, value);
    total += weight;
#pragma unroll
    for (int j = 0; j < 8; j++) sum[j] += weight * values[j];
  }
};

template <int DIMENSION>
__device__ __forceinline__ void attend(const tandem_gpu_attention_decode &a) {
  constexpr int CHUNKS = DIMENSION / 8;                                         // of 16 bytes in a key
  constexpr int LANES = CHUNKS <= 8 ? 8 : 16;                                   // of a group
  constexpr int GROUPS = 32 / LANES;                                            // of a warp
  constexpr int COUNT = 2048 / DIMENSION / GROUPS, POSITIONS = COUNT * GROUPS;  // a group's, a stage's
  constexpr uint32_t PLANE_BYTES = POSITIONS * DIMENSION * 2;
  static_assert(WARPS * 2 * PLANE_BYTES <= TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES, "stages fit");
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ uint64_t full[WARPS], empty[WARPS];
  __shared__ float maxima[WARPS * GROUPS], totals[WARPS * GROUPS];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t head = blockIdx.x, row = blockIdx.y;
  const tandem_gpu_row *r = as<const tandem_gpu_row>(a.rows) + row;
  const uint32_t position = r->position;
  const size_t plane = size_t(a.cache_heads) * r->capacity * DIMENSION;
  __half *keys =
      as<__half>(r->cache) + 2 * a.layer * plane + (a.first_head + head) * size_t(r->capacity) * DIMENSION;
  __half *values = keys + plane;
  const uint32_t chunk_count = (position + POSITIONS - 1) / POSITIONS;
  if (threadIdx.x == 0) {
    for (int i = 0; i < WARPS; i++) {
      ring::initialize_barrier(ring::shared_address(full + i), 1);
      ring::initialize_barrier(ring::shared_address(empty + i), 1);
    }
    ring::publish_barriers();
  }
  __syncthreads();

  State state;
  // Lanes without a part of the key repeat the last one, with a query of zeros.
  const bool has_part = lane % LANES < CHUNKS;
  const uint32_t part = min(lane % LANES, uint32_t(CHUNKS - 1)), group = lane / LANES;
  if (warp == WARPS) {
    if (lane == 0) {
      const uint64_t policy = ring::evict_first();
      ring::Place<WARPS> place;
      for (uint32_t chunk = 0; chunk < chunk_count; chunk++) {
        // The first time round nobody has used the stage.
        if (chunk >= WARPS) ring::wait(ring::shared_address(empty + place.stage), place.parity ^ 1);
        const uint32_t first = chunk * POSITIONS;
        const uint32_t bytes = min(position - first, uint32_t(POSITIONS)) * DIMENSION * 2;
        const uint32_t barrier = ring::shared_address(full + place.stage);
        const uint32_t to = ring::shared_address(memory) + place.stage * 2 * PLANE_BYTES;
        ring::expect_bytes(barrier, 2 * bytes);
        ring::copy_bytes(to, keys + size_t(first) * DIMENSION, bytes, barrier, policy);
        ring::copy_bytes(to + PLANE_BYTES, values + size_t(first) * DIMENSION, bytes, barrier, policy);
        place.advance();
      }
    }
    __syncwarp();
  } else {
    wait_for_predecessors();
    const size_t width = size_t(a.piece_heads) * DIMENSION;
    const __half *own = as<const __half>(a.qkv) + row * 3 * width + head * DIMENSION + 8 * part;
    float query[8];
    to_floats(query, __ldcg(reinterpret_cast<const uint4 *>(own)));
#pragma unroll
    for (int j = 0; j < 8; j++) query[j] = has_part ? query[j] * (a.scale * LOG2_E) : 0.0f;
    auto score_of = [&](const uint4 &key) {
      float parts[8], score = 0.0f;
      to_floats(parts, key);
#pragma unroll
      for (int j = 0; j < 8; j++) score += query[j] * parts[j];
#pragma unroll
      for (int distance = LANES / 2; distance > 0; distance /= 2) {
        score += __shfl_xor_sync(~0u, score, distance);
      }
      return score;
    };

    const uint4 *stage_keys = reinterpret_cast<const uint4 *>(memory + warp * 2 * PLANE_BYTES) + part;
    const uint4 *stage_values = stage_keys + PLANE_BYTES / 16;
    uint32_t parity = 0;
    for (uint32_t chunk = warp; chunk < chunk_count; chunk += WARPS) {
      ring::wait(ring::shared_address(full + warp), parity);
      parity ^= 1;
      const uint32_t there = position - chunk * POSITIONS;  // positions from here on
      float scores[COUNT], maximum = state.maximum;
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const uint32_t p = i * GROUPS + group;
        const uint4 zeros = make_uint4(0, 0, 0, 0);
        scores[i] = score_of(p < there ? stage_keys[p * CHUNKS] : zeros);
        if (p < there) maximum = fmaxf(maximum, scores[i]);
      }
      state.raise(maximum);
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const uint32_t p = i * GROUPS + group;
        if (p < there) state.add(exponential2(scores[i] - maximum), stage_values[p * CHUNKS]);
      }
      __syncwarp();
      if (lane == 0) ring::arrive(ring::shared_address(empty + warp));
    }
    if (warp == WARPS - 1) {
      const uint4 own_key = __ldcg(reinterpret_cast<const uint4 *>(own + width));
      const uint4 own_value = __ldcg(reinterpret_cast<const uint4 *>(own + 2 * width));
      const float score = score_of(own_key);
      if (group == 0) {
        state.raise(fmaxf(state.maximum, score));
        state.add(exponential2(score - state.maximum), own_value);
        if (has_part) {
          reinterpret_cast<uint4 *>(keys + size_t(position) * DIMENSION)[part] = own_key;
          reinterpret_cast<uint4 *>(values + size_t(position) * DIMENSION)[part] = own_value;
        }
      }
    }
  }

  // The groups' states, in place of the stages, all of which have been used.
  __syncthreads();
  float *sums = reinterpret_cast<float *>(memory);  // [group][DIMENSION]
  if (warp < WARPS) {
    const uint32_t index = warp * GROUPS + group;
    if (has_part) {
      float4 *to = reinterpret_cast<float4 *>(sums + index * DIMENSION + 8 * part);
      to[0] = make_float4(state.sum[0], state.sum[1], state.sum[2], state.sum[3]);
      to[1] = make_float4(state.sum[4], state.sum[5], state.sum[6], state.sum[7]);
    }
    if (lane % LANES == 0) maxima[index] = state.maximum, totals[index] = state.total;
  }
  __syncthreads();
  const uint32_t d = threadIdx.x;
  if (d >= DIMENSION) return;
  float maximum = LOWEST, total = 0.0f, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < WARPS * GROUPS; i++) maximum = fmaxf(maximum, maxima[i]);
#pragma unroll
  for (int i = 0; i < WARPS * GROUPS; i++) {
    const float weight = exponential2(maxima[i] - maximum);
    total += weight * totals[i];
    sum += weight * sums[i * DIMENSION + d];
  }
  as<__half>(a.out)[(size_t(row) * a.piece_heads + head) * DIMENSION + d] = __float2half_rn(sum / total);
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
