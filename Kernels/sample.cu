#include "Kernel.cuh"

// Chooses a row's token from its logits, as the host's sampler does: temperature, top-k, top-p, then the
// candidate at which the running sum passes `uniform` of the total; likeliest first where top-k or top-p is
// used, else in the order of the vocabulary.
//
// Sums must not depend on the order in which threads add. So a token's weight, exp((logit - maximum) /
// temperature), is a whole number of 2^-40, and order by likelihood is found digit by digit: 11 bits of the
// logit's sortable bits at a time, with the weights of each digit's tokens added up in shared memory.

namespace sample_kernel {

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;
constexpr float LOWEST = -3.4e38f;        // weighs nothing beside any other
constexpr float UNIT = 1099511627776.0f;  // 2^40

struct Candidate {
  float logit;
  uint32_t token;
};

__device__ __forceinline__ Candidate larger(Candidate a, Candidate b) {
  return b.logit > a.logit || (b.logit == a.logit && b.token < a.token) ? b : a;
}

struct Row {
  const float *logits;
  uint32_t vocabulary;
  tandem_gpu_choice choice;
  float maximum;

  __device__ __forceinline__ float logit(uint32_t token) const {
    return int32_t(token) == choice.forbidden ? LOWEST : logits[token];
  }
  __device__ __forceinline__ uint64_t weight(float logit) const {
    return uint64_t(expf((logit - maximum) * (1.0f / choice.temperature)) * UNIT);
  }
};

// Bits that sort like the value: larger values have larger bits.
__device__ __forceinline__ uint32_t sortable(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ Candidate likeliest(const Row &row, Candidate *shared) {
  Candidate best = {LOWEST, 0xffffffffu};
  for (uint32_t token = threadIdx.x; token < row.vocabulary; token += THREADS) {
    best = larger(best, Candidate{row.logit(token), token});
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    best = larger(
        best, Candidate{__shfl_xor_sync(~0u, best.logit, offset), __shfl_xor_sync(~0u, best.token, offset)});
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = best;
  __syncthreads();
  best = shared[0];
  for (int warp = 1; warp < WARPS; warp++) best = larger(best, shared[warp]);
  __syncthreads();
  return best;
}

// The block's sum, in every thread.
__device__ uint64_t block_sum(uint64_t value, uint64_t *shared) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  uint64_t sum = 0;
  for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
  __syncthreads();
  return sum;
}

constexpr int DIGITS = 2048;

struct Search {
  uint64_t sums[DIGITS];
  uint64_t warp_sums[WARPS];
  uint64_t before;
  uint32_t digit;
};

// Where, likeliest first, the running sum of `measure` over the tokens of at least `floor` passes `target`:
// the sortable bits of that token, and through `before` the sum of all that are likelier.
template <typename Measure>
__device__ uint32_t pass(const Row &row, uint32_t floor, uint64_t target, Measure measure, Search &search,
                         uint64_t &before) {
  uint32_t prefix = 0;
  before = 0;
  const int shifts[3] = {21, 10, 0};
  for (int step = 0; step < 3; step++) {
    const int shift = shifts[step], width = step == 2 ? 10 : 11;
    for (uint32_t digit = threadIdx.x; digit < DIGITS; digit += THREADS) search.sums[digit] = 0;
    __syncthreads();
    for (uint32_t token = threadIdx.x; token < row.vocabulary; token += THREADS) {
      const float logit = row.logit(token);
      const uint32_t bits = sortable(logit);
      if (bits < floor || (step > 0 && bits >> (shift + width) != prefix)) continue;
      atomicAdd(reinterpret_cast<unsigned long long *>(&search.sums[bits >> shift & ((1u << width) - 1)]),
                static_cast<unsigned long long>(measure(logit)));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      // The last digit with anything in it takes what rounding leaves.
      uint32_t last = 0;
      uint64_t sum = before;
      for (int d = (1 << width) - 1; d >= 0; d--) {
        if (search.sums[d] == 0) continue;
        last = d;
        search.before = sum;
        if (sum + search.sums[d] > target) break;
        sum += search.sums[d];
      }
      search.digit = last;
    }
    __syncthreads();
    before = search.before;
    prefix = prefix << width | search.digit;
    __syncthreads();
  }
  return prefix;
}

// The token of those with exactly these bits at which the running sum, in the order of the vocabulary, passes
// `target`. With `bits` 0 all tokens count.
__device__ uint32_t pass_in_order(const Row &row, uint32_t bits, uint64_t target, Search &search) {
  __shared__ uint32_t chosen;
  const uint32_t share = (row.vocabulary + THREADS - 1) / THREADS;
  const uint32_t first = threadIdx.x * share, last = min(first + share, row.vocabulary);
  uint64_t sum = 0;
  for (uint32_t token = first; token < last; token++) {
    const float logit = row.logit(token);
    if (bits == 0 || sortable(logit) == bits) sum += row.weight(logit);
  }
  // The running sum before this thread's tokens.
  uint64_t before = sum;
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t other = __shfl_up_sync(~0u, before, offset);
    if (threadIdx.x % 32 >= offset) before += other;
  }
  if (threadIdx.x % 32 == 31) search.warp_sums[threadIdx.x / 32] = before;
  if (threadIdx.x == 0) chosen = 0xffffffffu;
  __syncthreads();
  before -= sum;
  for (uint32_t warp = 0; warp < threadIdx.x / 32; warp++) before += search.warp_sums[warp];
  if (before <= target && target < before + sum) {
    for (uint32_t token = first; token < last; token++) {
      const float logit = row.logit(token);
      if (bits != 0 && sortable(logit) != bits) continue;
      before += row.weight(logit);
      if (before > target) {
        chosen = token;
        break;
      }
    }
  }
  __syncthreads();
  return chosen;
}

__device__ uint32_t draw(const Row &row, Candidate best, Search &search) {
  const tandem_gpu_choice choice = row.choice;
  auto weight = [&](float logit) { return row.weight(logit); };
  auto one = [](float) { return uint64_t(1); };
  uint64_t before = 0;
  uint32_t floor = 0;
  if (choice.top_k > 0 && choice.top_k < row.vocabulary) {
    floor = pass(row, 0, choice.top_k - 1, one, search, before);
  }
  uint64_t total = 0;
  for (uint32_t token = threadIdx.x; token < row.vocabulary; token += THREADS) {
    const float logit = row.logit(token);
    if (sortable(logit) >= floor) total += row.weight(logit);
  }
  total = block_sum(total, search.warp_sums);
  if (choice.top_p < 1.0f) {
    // The fewest likeliest tokens whose sum reaches top_p of the total.
    const uint64_t wanted = uint64_t(double(choice.top_p) * double(total));
    floor = pass(row, floor, wanted > 0 ? wanted - 1 : 0, weight, search, before);
    total = 0;
    for (uint32_t token = threadIdx.x; token < row.vocabulary; token += THREADS) {
      const float logit = row.logit(token);
      if (sortable(logit) >= floor) total += row.weight(logit);
    }
    total = block_sum(total, search.warp_sums);
  }
  const uint64_t target = uint64_t(double(choice.uniform) * double(total));
  uint32_t chosen;
  if (choice.top_k == 0 && choice.top_p >= 1.0f) {
    chosen = pass_in_order(row, 0, target, search);
  } else {
    const uint32_t bits = pass(row, floor, target, weight, search, before);
    chosen = pass_in_order(row, bits, target - before, search);
  }
  return chosen == 0xffffffffu ? best.token : chosen;
}

}  // namespace sample_kernel

extern "C" __global__ void __launch_bounds__(sample_kernel::THREADS)
    tandem_kernel_sample(const __grid_constant__ tandem_gpu_sample a) {
  using namespace sample_kernel;
  __shared__ Candidate candidates[WARPS];
  __shared__ Search search;
  launch_successors();
  wait_for_predecessors();
  Row row = {as<const float>(a.logits) + size_t(blockIdx.x) * a.vocabulary, a.vocabulary,
             as<const tandem_gpu_choice>(a.choices)[blockIdx.x], 0.0f};
  const Candidate best = likeliest(row, candidates);
  row.maximum = best.logit;
  const uint32_t token = row.choice.temperature == 0.0f ? best.token : draw(row, best, search);
  if (threadIdx.x != 0) return;
  as<volatile int32_t>(a.tokens)[blockIdx.x] = int32_t(token);
  __threadfence_system();
  uint32_t *counter = as<uint32_t>(a.counter);
  if (atomicAdd(counter, 1) == a.rows - 1) {
    *counter = 0;
    __threadfence_system();
    *as<volatile uint32_t>(a.sequence_number) = *as<const uint32_t>(a.step);
  }
}
