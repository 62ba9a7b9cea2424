#include "QuantizedCache.cuh"

// cache[layer, K or V, first_head + h, rows[r].position, :] = qkv[r, 1 or 2, h, :].
//
// How to launch it: tandem_kernel_store_keys_values_<head dimension>, for any other `_any`; for a cache in 4
// bits tandem_kernel_store_keys_values_4_bits, whatever the dimension. Grid: rows. Block:
// STORE_KEYS_VALUES_THREADS. Dynamic shared memory: none. Cache and qkv begin at 16 bytes.

#define STORE_KEYS_VALUES_THREADS 256
#define STORE_KEYS_VALUES_SHARED_BYTES 0

namespace store_keys_values {

/// Copies the row's keys and values, a `Word` at a time.
template <typename Word>
__device__ __forceinline__ void store(const tandem_gpu_store_keys_values &a, uint32_t dimension) {
  const uint32_t words = dimension / (sizeof(Word) / sizeof(__half));  // of a head
  const uint32_t width = a.piece_heads * words;
  const tandem_gpu_row row = as<const tandem_gpu_row>(a.rows)[blockIdx.x];
  const Word *from = as<const Word>(a.qkv) + size_t(blockIdx.x) * 3 * width + width;
  Word *cache = as<Word>(a.on_host ? row.host_cache : row.cache);
  for (uint32_t i = threadIdx.x; i < 2 * a.heads * words; i += STORE_KEYS_VALUES_THREADS) {
    const uint32_t head = i / words % a.heads, kind = i / words / a.heads;
    const size_t line = size_t(2 * a.layer + kind) * a.cache_heads + a.first_head + head;
    cache[(line * row.capacity + row.position) * words + i % words] =
        from[kind * width + head * words + i % words];
  }
}

/// Rounds the row's keys and values to 4 bits: eight lanes a group.
__device__ __forceinline__ void store_rounded(const tandem_gpu_store_keys_values &a) {
  const uint32_t dimension = a.head_dimension,
                 groups = (dimension + quantized_cache::GROUP - 1) / quantized_cache::GROUP;
  const tandem_gpu_row row = as<const tandem_gpu_row>(a.rows)[blockIdx.x];
  const uint32_t width = a.piece_heads * dimension, words = quantized_cache::position_bytes(dimension) / 4;
  const __half *from = as<const __half>(a.qkv) + size_t(blockIdx.x) * 3 * width + width;
  uint32_t *cache = as<uint32_t>(a.on_host ? row.host_cache : row.cache);
  const uint32_t lane = threadIdx.x % 8, lanes = 0xffu << (threadIdx.x % 32 / 8 * 8);
  for (uint32_t i = threadIdx.x / 8; i < 2 * a.heads * groups; i += STORE_KEYS_VALUES_THREADS / 8) {
    const uint32_t group = i % groups, head = i / groups % a.heads, kind = i / groups / a.heads;
    const uint32_t word = min(8 * group + lane, dimension / 8 - 1);
    const quantized_cache::Rounded rounded =
        quantized_cache::round(from + kind * width + head * dimension, word, dimension, lanes);
    const size_t line = size_t(2 * a.layer + kind) * a.cache_heads + a.first_head + head;
    uint32_t *to = cache + (line * row.capacity + row.position) * words;
    if (8 * group + lane == word) quantized_cache::store(to, word, dimension, rounded);
  }
}

}  // namespace store_keys_values

#define STORE_KEYS_VALUES(dimension)                                                                        \
  extern "C" __global__ void __launch_bounds__(STORE_KEYS_VALUES_THREADS)                                   \
      tandem_kernel_store_keys_values_##dimension(const __grid_constant__ tandem_gpu_store_keys_values a) { \
    launch_successors();                                                                                    \
    wait_for_predecessors();                                                                                \
    store_keys_values::store<uint4>(a, dimension);                                                          \
  }

STORE_KEYS_VALUES(64)
STORE_KEYS_VALUES(80)
STORE_KEYS_VALUES(128)

extern "C" __global__ void __launch_bounds__(STORE_KEYS_VALUES_THREADS)
    tandem_kernel_store_keys_values_any(const __grid_constant__ tandem_gpu_store_keys_values a) {
  launch_successors();
  wait_for_predecessors();
  store_keys_values::store<__half>(a, a.head_dimension);
}

extern "C" __global__ void __launch_bounds__(STORE_KEYS_VALUES_THREADS)
    tandem_kernel_store_keys_values_4_bits(const __grid_constant__ tandem_gpu_store_keys_values a) {
  launch_successors();
  wait_for_predecessors();
  store_keys_values::store_rounded(a);
}
