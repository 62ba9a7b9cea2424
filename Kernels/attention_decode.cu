#include "Kernel.cuh"

// out = softmax(scale * q . keys^T) . values for one query a row, bound by reading the KV cache.
//
// A block takes TANDEM_GPU_ATTENTION_PART positions of one head. The 8 or 16 lanes of a group hold one
// position's key at a time, 16 bytes each, and its value in the same places, so that a thread meets the same
// positions in both products: their scores never leave registers, and the block's only barrier is the one
// before its warps' sums are joined. All keys (in registers) and values (on their way to shared memory, where
// each thread reads back only what it copied itself) are asked for before the first is used.
//
// Nothing is read from the cache at or behind the row's position: the row's own new key and value stand for
// all of these, at no weight but for the first.
//
// How to launch it: tandem_kernel_attention_decode_<head dimension>, for any other up to 256 `_any`.
// Grid: (part_count, heads, rows), with part_count > the largest position / TANDEM_GPU_ATTENTION_PART; blocks
// behind a row's last part exit at once, but each costs a launch. Block: ATTENTION_DECODE_THREADS.
// Dynamic shared memory: none. Cache and qkv begin at 16 bytes. No two rows have the same cache.

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

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ __forceinline__ void to_floats(float to[8], const uint4 &from) {
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = __half22float2(reinterpret_cast<const __half2 &>(words[i]));
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

/// A block's work: a part of the positions that one row's head sees.
struct Work {
  uint32_t row, head, part, part_count;  // parts that the row has
  uint32_t first, position;              // of the part; of the row's new token
  const __half *query, *own_key, *own_value;
  __half *keys, *values;  // of position 0

  /// Only behind `wait_for_predecessors`.
  __device__ __forceinline__ Work(const tandem_gpu_attention_decode &a, uint32_t dimension)
      : row(blockIdx.z), head(blockIdx.y), part(blockIdx.x) {
    const tandem_gpu_row *r = as<const tandem_gpu_row>(a.rows) + row;
    const __half *cache = as<const __half>(a.on_host ? r->host_cache : r->cache);
    const size_t capacity = r->capacity;
    position = r->position;
    part_count = position / PART + 1;
    first = part * PART;
    const size_t width = size_t(a.piece_heads) * dimension;
    query = as<const __half>(a.qkv) + row * 3 * width + head * dimension;
    own_key = query + width;
    own_value = own_key + width;
    const size_t plane = size_t(a.cache_heads) * capacity * dimension;
    keys = const_cast<__half *>(cache) + 2 * a.layer * plane + (a.first_head + head) * capacity * dimension;
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

template <int DIMENSION>
__device__ __forceinline__ void attend(const tandem_gpu_attention_decode &a) {
  constexpr int CHUNKS = DIMENSION / 8;        // of 16 bytes in a key
  constexpr int LANES = CHUNKS <= 8 ? 8 : 16;  // of a group
  constexpr int GROUPS = THREADS / LANES;      // positions that the block has at a time
  constexpr int COUNT = PART / GROUPS;         // positions of a group
  static_assert(DIMENSION % 8 == 0 && CHUNKS <= LANES && DIMENSION <= THREADS, "lanes hold a key");
  __shared__ uint4 copies[COUNT * THREADS];
  __shared__ float4 sums[WARPS][DIMENSION / 4];
  __shared__ float maxima[WARPS], totals[WARPS];

  const Work work(a, DIMENSION);
  if (work.part >= work.part_count) return;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Lanes without a chunk repeat the last one, with a query of zeros.
  const bool has_chunk = threadIdx.x % LANES < CHUNKS;
  const uint32_t offset = 8 * min(threadIdx.x % LANES, uint32_t(CHUNKS - 1));
  const uint32_t first = work.first + threadIdx.x / LANES;  // its group's first position

  // What earlier steps have left in the cache is asked for before the kernels in front of this one have
  // ended.
  uint4 keys[COUNT];
  const __half *old_keys = work.keys + (size_t(first) * DIMENSION + offset);
  const __half *old_values = work.values + (size_t(first) * DIMENSION + offset);
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    keys[i] = make_uint4(0, 0, 0, 0);
    if (first + i * GROUPS < work.position) keys[i] = load_from_l2(old_keys + i * GROUPS * DIMENSION);
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (first + i * GROUPS < work.position) {
      copy_in_background(copies + i * THREADS + threadIdx.x, old_values + i * GROUPS * DIMENSION);
    }
  }
  wait_for_predecessors();
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (first + i * GROUPS >= work.position) {
      keys[i] = load_from_l2(work.own_key + offset);
      copy_in_background(copies + i * THREADS + threadIdx.x, work.own_value + offset);
    }
  }
  float query[8];
  to_floats(query, load_from_l2(work.query + offset));
#pragma unroll
  for (int j = 0; j < 8; j++) query[j] = has_chunk ? query[j] * (a.scale * LOG2_E) : 0.0f;

  // Scores, then weights relative to the warp's maximum.
  float weights[COUNT], maximum = LOWEST, total = 0.0f;
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const uint32_t position = first + i * GROUPS;
    if (position == work.position && has_chunk) {
      *reinterpret_cast<uint4 *>(work.keys + size_t(position) * DIMENSION + offset) = keys[i];
    }
    float key[8], score = 0.0f;
    to_floats(key, keys[i]);
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
  wait_for_copies();
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    const uint4 bits = copies[i * THREADS + threadIdx.x];
    const uint32_t position = first + i * GROUPS;
    if (position == work.position && has_chunk) {
      *reinterpret_cast<uint4 *>(work.values + size_t(position) * DIMENSION + offset) = bits;
    }
    float value[8];
    to_floats(value, bits);
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
    sums[warp][offset / 4] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    sums[warp][offset / 4 + 1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
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
#define ATTENTION_DECODE(dimension)                                                                       \
  extern "C" __global__ void __launch_bounds__(ATTENTION_DECODE_THREADS, 3)                               \
      tandem_kernel_attention_decode_##dimension(const __grid_constant__ tandem_gpu_attention_decode a) { \
    launch_successors();                                                                                  \
    attention_decode::attend<dimension>(a);                                                               \
  }

ATTENTION_DECODE(64)
ATTENTION_DECODE(80)
ATTENTION_DECODE(128)

// Head dimensions up to 256 that need not be a multiple of 8: a warp a score, then a thread a dimension.
extern "C" __global__ void __launch_bounds__(ATTENTION_DECODE_THREADS)
    tandem_kernel_attention_decode_any(const __grid_constant__ tandem_gpu_attention_decode a) {
  using namespace attention_decode;
  launch_successors();
  wait_for_predecessors();
  const uint32_t dimension = a.head_dimension, lane = threadIdx.x % 32, d = threadIdx.x;
  const Work work(a, dimension);
  if (work.part >= work.part_count) return;
  auto at = [&](const __half *cached, const __half *own, uint32_t p) {
    const uint32_t position = work.first + p;
    return position < work.position ? cached + size_t(position) * dimension : own;
  };

  __shared__ float scores[PART];
  const uint32_t count = min(work.position + 1 - work.first, uint32_t(PART));
  for (uint32_t p = threadIdx.x / 32; p < count; p += WARPS) {
    const __half *key = at(work.keys, work.own_key, p);
    float score = 0.0f;
    for (uint32_t i = lane; i < dimension; i += 32) {
      score += __half2float(work.query[i]) * __half2float(key[i]);
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
    if (d < dimension) sum += weight * __half2float(at(work.values, work.own_value, p)[d]);
  }
  if (work.part + 1 == work.part_count && d < dimension) {
    work.keys[size_t(work.position) * dimension + d] = work.own_key[d];
    work.values[size_t(work.position) * dimension + d] = work.own_value[d];
  }
  work.finish(a, dimension, maximum, total, sum);
}
