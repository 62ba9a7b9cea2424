#include "Kernel.cuh"

// cache[layer, K or V, first_head + h, rows[r].position, :] = qkv[r, 1 or 2, h, :].
//
// How to launch it: tandem_kernel_store_keys_values_<head dimension>, for any other `_any`.
// Grid: rows. Block: STORE_KEYS_VALUES_THREADS. Dynamic shared memory: none. Cache and qkv begin at 16 bytes.

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
