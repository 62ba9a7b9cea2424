#include "Quantized.cuh"
#include "Ring.cuh"

// A decode step of few rows, from the residual stream to the logits, in one kernel: one block a
// multiprocessor.
//
// Weights do not depend on activations. A warp of each block, the feeder, therefore runs ahead of the others
// through all operations of the step and keeps a ring of stages in shared memory full, 16 KB each, by the
// copy engine; the memory never waits for the operations, only the operations for it. The other warps
// multiply: they meet the other blocks between operations (five a layer), and what they miss in that time is
// in the ring when they come back: 176 KB are 5 us of the memory's time.
//
// A product of W [outputs, inputs] (queries, keys and values; fc1; logits) is cut over blocks by 16 outputs,
// one of W [inputs, outputs] (output projection, fc2) by 64 outputs x 128 inputs, so that several blocks have
// parts of the same outputs. Their sums stay apart, in slots, until the operation behind reads them together
// with the residual stream, always in the same order: no result depends on which block is first.
//
// Layers' weights of 4 bits (docs/quantization.md) take the same way. A stage then is some tiles that lie one
// behind the other, of 16 outputs, or four tiles of each of some groups of inputs, and is expanded in
// registers.

#if __CUDA_ARCH__ >= 900

namespace decode {

// Warps that multiply, each with a stage of the ring of its own.
constexpr int WARPS = 11, THREADS = WARPS * 32, STAGES = WARPS, STAGE_BYTES = TANDEM_GPU_DECODE_STAGE_BYTES;
constexpr int X_AT = STAGES * STAGE_BYTES, X_BYTES = 32768;
constexpr int SUMS_AT = X_AT + X_BYTES, SUMS_BYTES = 6144;
constexpr int BARRIERS_AT = SUMS_AT + SUMS_BYTES, VECTORS_AT = BARRIERS_AT + 16 * STAGES + 16;
static_assert(VECTORS_AT + TANDEM_GPU_DECODE_LAYERS * sizeof(tandem_gpu_decode_vectors) + 1024 ==
                  TANDEM_GPU_DECODE_SHARED_BYTES,
              "the launch gives a block this much");
static_assert(THREADS + 32 == TANDEM_GPU_DECODE_BLOCK, "the feeder is one warp more");
constexpr float LOWEST = -1.0e38f, NO_SCORE = -3.0e38f;

__device__ __forceinline__ void synchronize() { ring::synchronize<THREADS>(); }

// What a stage holds of weights of BITS bits: of W [outputs, inputs] 16 outputs and up to MOST_GROUPS groups
// of 64 inputs, of W [inputs, outputs] INPUTS inputs and 64 outputs.
template <int BITS>
struct Form {
  static constexpr uint32_t TILE_BYTES = 128 * BITS + 64;
  static constexpr uint32_t MOST_GROUPS = STAGE_BYTES / TILE_BYTES, GROUPS = STAGE_BYTES / (4 * TILE_BYTES);
  static constexpr uint32_t INPUTS = 64 * GROUPS;
  static_assert(BITS != 4 || INPUTS == TANDEM_GPU_DECODE_STAGE_INPUTS_4_BITS,
                "the host cuts as the kernel does");
  __device__ __forceinline__ static uint32_t depth(uint32_t inputs) {
    return (inputs / 64 + MOST_GROUPS - 1) / MOST_GROUPS;
  }
  // Groups of every stage but perhaps an output's last.
  __device__ __forceinline__ static uint32_t groups(uint32_t inputs) {
    const uint32_t stages = depth(inputs);
    return (inputs / 64 + stages - 1) / stages;
  }
};
template <>
struct Form<16> {
  static constexpr uint32_t INPUTS = TANDEM_GPU_DECODE_STAGE_INPUTS;
  __device__ __forceinline__ static uint32_t depth(uint32_t inputs) { return (inputs + 511) / 512; }
};

// How the stages of a product of W [inputs, outputs] are cut over blocks: stage s is tile s / depth of the
// outputs and rows s % depth * `stage_inputs` ... of the inputs.
struct Cut {
  uint32_t depth, total, participants;

  __device__ __forceinline__ Cut(uint32_t inputs, uint32_t outputs, uint32_t participants,
                                 uint32_t stage_inputs)
      : depth((inputs + stage_inputs - 1) / stage_inputs),
        total(depth * ((outputs + 63) / 64)),
        participants(participants) {}
  __device__ __forceinline__ uint32_t begin(uint32_t block) const {
    return total * min(block, participants) / participants;
  }
  __device__ __forceinline__ uint32_t owner(uint32_t stage) const {
    return ((stage + 1) * participants - 1) / total;
  }
  __device__ __forceinline__ uint32_t first_owner(uint32_t tile) const { return owner(tile * depth); }
  __device__ __forceinline__ uint32_t slot_count(uint32_t tile) const {
    return owner(tile * depth + depth - 1) - first_owner(tile) + 1;
  }
};

struct Block {
  uint32_t warp, lane, stages, x, zero;
  uint32_t stage, full, empty;  // the warp's own
  uint8_t *shared;
  uint32_t parity = 0;
  uint32_t turn = 0;  // the warp whose stage the operation's first one is

  // The first of an operation's stages, from `number` on, that is this warp's.
  __device__ __forceinline__ uint32_t own(uint32_t number) const {
    return number + (warp + WARPS - (turn + number) % WARPS) % WARPS;
  }
  // Waits until the warp's stage is full.
  __device__ __forceinline__ void acquire() {
    ring::wait(full, parity);
    parity ^= 1;
  }
  __device__ __forceinline__ void release() {
    __syncwarp();
    if (lane == 0) ring::arrive(empty);
  }
  __device__ __forceinline__ void finish(uint32_t stage_count) { turn = (turn + stage_count) % WARPS; }
};

// What the heads have together: of one rank among several less than the hidden size.
template <int DIMENSION, bool HAS_PEERS>
__device__ __forceinline__ uint32_t width(const tandem_gpu_decode &a) {
  return HAS_PEERS ? a.heads * DIMENSION : a.hidden;
}

__device__ __forceinline__ uint32_t tile_begin(uint32_t tiles, uint32_t block) {
  return tiles * block / gridDim.x;
}

// MARK: The feeder

// The block's stages of a whole step, in order.
template <int DIMENSION, bool HAS_PEERS, int BITS>
struct Walk {
  const tandem_gpu_decode &a;
  const Cut output, fc2;
  uint32_t operation = 0;  // four a layer, and the logits
  const uint64_t *map;     // of quantized weights, their address
  uint32_t tile, k, depth, left;

  __device__ __forceinline__ explicit Walk(const tandem_gpu_decode &a)
      : a(a),
        output(width<DIMENSION, HAS_PEERS>(a), a.hidden, a.output_participants, Form<BITS>::INPUTS),
        fc2(a.neuron_count, a.hidden, a.fc2_participants, Form<BITS>::INPUTS) {
    begin();
  }
  __device__ __forceinline__ bool is_quantized() const { return BITS != 16 && operation < 4 * a.layer_count; }
  __device__ __forceinline__ bool is_done() const { return operation > 4 * a.layer_count; }
  __device__ __forceinline__ bool is_transposed() const { return operation % 2 == 1; }

  __device__ __forceinline__ void begin() {
    for (; !is_done(); operation++) {
      const tandem_gpu_decode_layer *layer = as<const tandem_gpu_decode_layer>(a.layers) + operation / 4;
      if (is_transposed()) {
        const Cut &cut = operation % 4 == 1 ? output : fc2;
        map = operation % 4 == 1 ? layer->output : layer->fc2;
        const uint32_t first = cut.begin(blockIdx.x);
        depth = cut.depth;
        left = cut.begin(blockIdx.x + 1) - first;
        tile = first / depth;
        k = first % depth;
      } else {
        const bool is_logits = operation == 4 * a.layer_count;
        map = is_logits ? as<const uint64_t>(a.logits_map) : operation % 4 == 0 ? layer->qkv : layer->fc1;
        const uint32_t outputs = is_logits            ? a.vocabulary
                                 : operation % 4 == 0 ? 3 * width<DIMENSION, HAS_PEERS>(a)
                                                      : a.neuron_count;
        const uint32_t tiles = (outputs + 15) / 16;
        depth = is_logits ? Form<16>::depth(a.hidden) : Form<BITS>::depth(a.hidden);
        tile = tile_begin(tiles, blockIdx.x);
        left = (tile_begin(tiles, blockIdx.x + 1) - tile) * depth;
        k = 0;
      }
      if (left) return;
    }
  }
  __device__ __forceinline__ void advance() {
    if (++k == depth) k = 0, tile++;
    if (--left == 0) {
      operation++;
      begin();
    }
  }

  // The bytes of the stage, and its copies.
  __device__ __forceinline__ uint32_t byte_count() const {
    if constexpr (BITS != 16) {
      using F = Form<BITS>;
      if (is_quantized() && is_transposed()) return group_count() * 4 * F::TILE_BYTES;
      if (is_quantized()) return group_count() * F::TILE_BYTES;
    }
    return STAGE_BYTES;
  }
  __device__ __forceinline__ uint32_t group_count() const {
    using F = Form<BITS>;
    if (is_transposed()) {
      const uint32_t inputs = operation % 4 == 1 ? width<DIMENSION, HAS_PEERS>(a) : a.neuron_count;
      return min(F::GROUPS, inputs / 64 - k * F::GROUPS);
    }
    const uint32_t groups = F::groups(a.hidden);
    return min(groups, a.hidden / 64 - k * groups);
  }
  // Calls `take` with the runs of bytes of a stage of quantized weights, and where in the stage each begins.
  template <typename Take>
  __device__ __forceinline__ void runs(Take take) const {
    using F = Form<BITS>;
    const uint8_t *tiles = reinterpret_cast<const uint8_t *>(*map);
    if (is_transposed()) {
      const uint32_t count = group_count();
      for (uint32_t n = 0; n < count; n++) {
        const size_t first = size_t(k * F::GROUPS + n) * (a.hidden / 16) + tile * 4;
        take(tiles + first * F::TILE_BYTES, 4 * F::TILE_BYTES, n * 4 * F::TILE_BYTES);
      }
    } else {
      const size_t first = size_t(tile) * (a.hidden / 64) + k * F::groups(a.hidden);
      take(tiles + first * F::TILE_BYTES, byte_count(), 0);
    }
  }
  __device__ __forceinline__ void copy(uint32_t to, uint32_t barrier, uint64_t policy) const {
    if constexpr (BITS != 16) {
      if (is_quantized()) {
        return runs([&](const void *from, uint32_t count, uint32_t at) {
          ring::copy_bytes(to + at, from, count, barrier, policy);
        });
      }
    }
    if (is_transposed()) {
      ring::copy_box(to, map, tile * 64, k * 128, barrier, policy);
    } else {
      ring::copy_box(to, map, 0, tile * 16, k * 8, barrier, policy);
    }
  }
};

// Keeps the ring full, and asks the memory for what comes behind it: what does not fit into the ring waits in
// the L2 cache.
template <int DIMENSION, bool HAS_PEERS, int BITS>
__device__ __forceinline__ void feed(const tandem_gpu_decode &a, const Block &b) {
  const uint32_t full = b.stages + BARRIERS_AT, empty = full + 8 * STAGES;
  const uint64_t policy = ring::evict_first();
  ring::Place<STAGES> place;
  Walk<DIMENSION, HAS_PEERS, BITS> walk(a);
  uint32_t last = clock();
  for (bool is_first_round = true; !walk.is_done(); walk.advance()) {
    const uint32_t barrier = full + 8 * place.stage, to = b.stages + place.stage * STAGE_BYTES;
    if (!is_first_round) ring::wait(empty + 8 * place.stage, place.parity ^ 1);
    const uint32_t byte_count = walk.byte_count(), pace = a.pace * (byte_count / 64) / (STAGE_BYTES / 64);
    uint32_t now = clock();
    while (now - last < pace) now = clock();
    last = now;
    ring::expect_bytes(barrier, byte_count);
    walk.copy(to, barrier, policy);
    place.advance();
    if (place.stage == 0) is_first_round = false;
  }
}

// MARK: What blocks hand each other
//
// A word that nobody has written yet has all its bits set, which is no number that a block writes: whoever
// needs it reads until it is there. That takes half the time of counting the blocks that are done and reading
// then.
//
// Layers use TANDEM_GPU_DECODE_SETS sets of words in turn. A block wipes what it has written of a layer's set
// in the next layer, behind the sums of that layer's output projection. These stand on the queries, keys and
// values of every block, and every block that has handed those over has read all it needs of the layer
// before. Whoever reads the set again, three layers later, has sums that stand in the same way on what every
// block handed over after its fence.
//
// Where several ranks have a part of the model each, sums go to all of them: a block writes each into the
// memory of its own GPU and of all others, and reads what it needs in its own. The sums behind a block of a
// layer then stand on the queries, keys and values of every block of every rank, so that the same holds:
// - A rank's blocks wipe its memory, whoever has written there, each a part of it. Behind the output
//   projection's sums all blocks of the rank have read the set of the layer before, and as nobody goes on
//   without all of a set's words, none of them is still on its way.
// - Another rank writes into the set again three layers later, behind sums that stand on what every block of
//   this rank handed over after its fence, which therefore is one of the system.
// - The last layer's set is wiped at the end of the step, and no rank begins the next one before all have
//   ended this one: what makes the residual stream the same on all of them stands on the end of each kernel.
// - A rank that is ahead waits for sums and nowhere else, so only that wait must be long.

constexpr uint32_t EMPTY = ~0u, MOST_ATTEMPTS = 1 << 22;
// Another process may have been kept from launching its kernel.
constexpr uint32_t MOST_PEER_NANOSECONDS = 2000000000;

__device__ __forceinline__ bool is_there(const uint4 &v) {
  return v.x != EMPTY && v.y != EMPTY && v.z != EMPTY && v.w != EMPTY;
}

__device__ __forceinline__ uint4 look(const void *pointer) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer)
               : "memory");
  return v;
}

// The same for words that other ranks write.
__device__ __forceinline__ uint4 look_at_peers(const void *pointer) {
  uint4 v;
  asm volatile("ld.relaxed.sys.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer)
               : "memory");
  return v;
}

__device__ __forceinline__ uint2 look_2(const void *pointer) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(pointer)
               : "memory");
  return v;
}

__device__ __forceinline__ void hand_over(void *pointer, uint32_t bits) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(pointer), "r"(bits == EMPTY ? 0x7fffffffu : bits)
               : "memory");
}

__device__ __forceinline__ void hand_over_to_peer(void *pointer, uint32_t bits) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(pointer), "r"(bits == EMPTY ? 0x7fffffffu : bits)
               : "memory");
}

__device__ __forceinline__ void wipe(void *pointer) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(pointer), "r"(EMPTY) : "memory");
}

__device__ __forceinline__ void wipe_from_peers(void *pointer) {
  asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1,%1,%1,%1};" ::"l"(pointer), "r"(EMPTY) : "memory");
}

// Reads again until `read` says that everything was there.
template <typename Read>
__device__ __forceinline__ void read_until_there(Read read) {
  for (uint32_t attempt = 0; !read(); attempt++) {
    if (attempt == MOST_ATTEMPTS) __trap();
  }
}

template <typename Read>
__device__ __forceinline__ void read_until_peers_are_there(Read read) {
  constexpr uint32_t ATTEMPTS_BETWEEN_CHECKS = 1024;
  uint32_t start = 0;
  for (uint32_t attempt = 1; !read(); attempt++) {
    if (attempt % ATTEMPTS_BETWEEN_CHECKS != 0) continue;
    const uint32_t now = uint32_t(nanoseconds());
    if (attempt == ATTEMPTS_BETWEEN_CHECKS) start = now;
    if (now - start > MOST_PEER_NANOSECONDS) __trap();
  }
}

__device__ __forceinline__ float4 floats(const uint4 &v) {
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

__device__ __forceinline__ void add(float4 &to, const float4 &v) {
  to.x += v.x, to.y += v.y, to.z += v.z, to.w += v.w;
}

__device__ __forceinline__ void scale(float4 &v, float factor) {
  v.x *= factor, v.y *= factor, v.z *= factor, v.w *= factor;
}

// The slots in which the sums of a product wait for the layer norm behind it: this GPU's alone.
struct OwnSlots {
  const tandem_gpu_decode &a;
  const Cut &cut;

  __device__ __forceinline__ uint32_t count(uint32_t tile) const { return cut.slot_count(tile); }
  // `slot` counts those of this GPU's blocks.
  __device__ __forceinline__ void put(uint8_t *sums, uint32_t tile, uint32_t slot, uint32_t output,
                                      float sum) const {
    hand_over(reinterpret_cast<float *>(sums) + size_t(slot) * a.hidden + output, __float_as_uint(sum));
  }
  __device__ __forceinline__ static uint4 look(const void *pointer) { return decode::look(pointer); }
  template <typename Read>
  __device__ __forceinline__ static void read_until_there(Read read) {
    decode::read_until_there(read);
  }
};

// The same of all ranks: `sums` lie in this rank's memory, and at the same place in that of every other.
struct GroupSlots {
  const tandem_gpu_decode_rank &r;
  const tandem_gpu_decode_tile *tiles;

  __device__ __forceinline__ uint32_t count(uint32_t tile) const { return tiles[tile].slot_count; }
  // The way to the others is the longest: they come first, each rank's own neighbour before the next.
  __device__ __forceinline__ void put(uint8_t *sums, uint32_t tile, uint32_t slot, uint32_t output,
                                      float sum) const {
    const size_t at = sums - as<uint8_t>(r.peers[r.rank]) +
                      (size_t(tiles[tile].first_slot + slot) * r.step.hidden + output) * 4;
    for (uint32_t n = 1; n <= r.rank_count; n++) {
      const uint32_t to = r.rank + n < r.rank_count ? r.rank + n : r.rank + n - r.rank_count;
      hand_over_to_peer(as<uint8_t>(r.peers[to]) + at, __float_as_uint(sum));
    }
  }
  __device__ __forceinline__ static uint4 look(const void *pointer) { return look_at_peers(pointer); }
  template <typename Read>
  __device__ __forceinline__ static void read_until_there(Read read) {
    read_until_peers_are_there(read);
  }
};

// Asks for a vector that is read later, each block for a part of it.
__device__ __forceinline__ void ask_for(tandem_device_pointer vector, uint32_t count) {
  if (!vector) return;
  for (uint32_t line = blockIdx.x + gridDim.x * threadIdx.x; line * 32 < count; line += gridDim.x * THREADS) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(as<const float>(vector) + line * 32));
  }
}

// MARK: Layer norm

__device__ __forceinline__ float sum_over_warps(float value, float *shared) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  synchronize();
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < WARPS; w++) sum += shared[w];
  return sum;
}

// x = layer norm of the residual stream, to which the sums of the operation in front are added first. Every
// block has the whole stream, a thread up to QUADS times four of its elements.
template <int QUADS, typename Slots>
__device__ __forceinline__ void normalize(const tandem_gpu_decode &a, const Block &b, float4 residual[QUADS],
                                          tandem_device_pointer norm_weight, tandem_device_pointer norm_bias,
                                          const uint8_t *sums, const Slots &of_sums) {
  __shared__ float shared[2][WARPS];
  const float4 zero = make_float4(0, 0, 0, 0), one = make_float4(1, 1, 1, 1);
  const float4 *weights = as<const float4>(norm_weight), *biases = as<const float4>(norm_bias);
  const uint32_t quads = a.hidden / 4;
  constexpr bool IS_EARLY = QUADS <= 3;  // more would not fit into the registers
  float4 weight[IS_EARLY ? QUADS : 1], bias[IS_EARLY ? QUADS : 1];
  if (IS_EARLY) {
#pragma unroll
    for (int n = 0; n < QUADS; n++) {
      const uint32_t i = threadIdx.x + n * THREADS;
      weight[IS_EARLY ? n : 0] = weights && i < quads ? weights[i] : one;
      bias[IS_EARLY ? n : 0] = biases && i < quads ? biases[i] : zero;
    }
  }
  if (sums) {
    constexpr int BATCH = 3;
    static_assert(QUADS % BATCH == 0, "whole batches");
#pragma unroll
    for (int first = 0; first < QUADS; first += BATCH) {
      uint32_t slots[BATCH], most = 0;
#pragma unroll
      for (int n = 0; n < BATCH; n++) {
        const uint32_t i = threadIdx.x + (first + n) * THREADS;
        slots[n] = i < quads ? of_sums.count(i / 16) : 0;
        most = max(most, slots[n]);
      }
      for (uint32_t slot = 0; slot < most; slot += 4) {
        uint4 parts[BATCH][4];
        Slots::read_until_there([&] {
          bool are_there = true;
#pragma unroll
          for (int n = 0; n < BATCH; n++) {
            const uint32_t i = threadIdx.x + (first + n) * THREADS;
#pragma unroll
            for (int p = 0; p < 4; p++) {
              parts[n][p] = make_uint4(0, 0, 0, 0);
              if (slot + p < slots[n]) parts[n][p] = Slots::look(sums + (size_t(slot + p) * quads + i) * 16);
            }
          }
#pragma unroll
          for (int n = 0; n < BATCH; n++) {
#pragma unroll
            for (int p = 0; p < 4; p++) are_there = are_there && is_there(parts[n][p]);
          }
          return are_there;
        });
#pragma unroll
        for (int n = 0; n < BATCH; n++) {
          float4 more = floats(parts[n][0]);
#pragma unroll
          for (int p = 1; p < 4; p++) add(more, floats(parts[n][p]));
          add(residual[first + n], more);
        }
      }
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int n = 0; n < QUADS; n++) sum += (residual[n].x + residual[n].y) + (residual[n].z + residual[n].w);
  const float mean = sum_over_warps(sum, shared[0]) / float(a.hidden);
  float squares = 0.0f;
#pragma unroll
  for (int n = 0; n < QUADS; n++) {
    if (threadIdx.x + n * THREADS >= quads) break;
    const float4 v = residual[n];
    const float dx = v.x - mean, dy = v.y - mean, dz = v.z - mean, dw = v.w - mean;
    squares += (dx * dx + dy * dy) + (dz * dz + dw * dw);
  }
  const float scale = rsqrtf(sum_over_warps(squares, shared[1]) / float(a.hidden) + a.epsilon);
#pragma unroll
  for (int n = 0; n < QUADS; n++) {
    const uint32_t i = threadIdx.x + n * THREADS;
    if (i >= quads) break;
    const float4 v = residual[n];
    const float4 w = IS_EARLY ? weight[IS_EARLY ? n : 0] : weights ? weights[i] : one;
    const float4 c = IS_EARLY ? bias[IS_EARLY ? n : 0] : biases ? biases[i] : zero;
    const __half2 low = __floats2half2_rn((v.x - mean) * scale * w.x + c.x, (v.y - mean) * scale * w.y + c.y);
    const __half2 high =
        __floats2half2_rn((v.z - mean) * scale * w.z + c.z, (v.w - mean) * scale * w.w + c.w);
    reinterpret_cast<uint2 *>(b.shared + X_AT)[i] =
        make_uint2(reinterpret_cast<const uint32_t &>(low), reinterpret_cast<const uint32_t &>(high));
  }
  synchronize();
}

// MARK: Products

// sum += a tile of 64 inputs in shared memory times x, of which lanes of g = 0 have the only row.
template <int BITS>
__device__ __forceinline__ void multiply_tile(float sum[4], float other[4], const uint8_t *tile,
                                              const uint4 x[2], uint32_t lane) {
  const uint32_t g = lane / 4, t = lane % 4;
  quantized::Part<BITS> part;
#pragma unroll
  for (uint32_t i = 0; i < BITS / 2; i++) {
    const uint32_t unit = BITS == 4 ? 4 * i + t : 8 * (i / 2) + 2 * t + i % 2;
    part.codes[i] = *reinterpret_cast<const uint2 *>(tile + 64 * unit + 8 * g);
  }
  part.scales = *reinterpret_cast<const uint32_t *>(tile + 128 * BITS + 4 * g);
  part.minimums = *reinterpret_cast<const uint32_t *>(tile + 128 * BITS + 32 + 4 * g);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    uint32_t first[4], second[4];
    quantized::expand(first, second, part, half);
    multiply_add_16x8x16(half ? other : sum, first, x[half].x, x[half].y);
    multiply_add_16x8x16(half ? other : sum, second, x[half].z, x[half].w);
  }
}

// What `multiply_tile` wants of a group's activations.
__device__ __forceinline__ void load_group(uint4 x[2], const uint8_t *group, uint32_t lane) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    x[half] = make_uint4(0, 0, 0, 0);
    if (lane < 4) x[half] = *reinterpret_cast<const uint4 *>(group + 64 * half + 16 * lane);
  }
}

// y[o] = activation(bias[o] + sum over i of x[i] * W[o, i]) for this block's outputs, two at a time to
// `store`; x is in shared memory. The warps take stages in turn, 16 outputs x 512 inputs each, so that those
// that are there are multiplied side by side.
template <int BITS, typename Store>
__device__ __forceinline__ void linear(const tandem_gpu_decode &a, Block &b, uint32_t outputs,
                                       tandem_device_pointer bias, Store store) {
  const uint32_t tiles = (outputs + 15) / 16, first = tile_begin(tiles, blockIdx.x);
  const uint32_t last = tile_begin(tiles, blockIdx.x + 1), depth = Form<BITS>::depth(a.hidden);
  const uint32_t matrix = b.lane / 8, eighth = b.lane % 8;
  const uint32_t weights_at = (matrix % 2 * 8 + eighth) * 128;
  // The tensor cores take eight rows of x; all but the first are zeros.
  const uint32_t x_at = eighth == 0 ? b.x + 16 * matrix : b.zero, x_step = eighth == 0 ? 64 : 0;
  float *sums = reinterpret_cast<float *>(b.shared + SUMS_AT);  // [tile][stage][output]
  const uint32_t most_tiles = SUMS_BYTES / 64 / depth;
  const float2 *biases = as<const float2>(bias);
  // The bias of the first pair of outputs that this thread will have.
  float2 early = make_float2(0, 0);
  if (biases) early = biases[min(first * 8 + threadIdx.x, outputs / 2 - 1)];

  for (uint32_t begin = first; begin < last; begin += most_tiles) {
    const uint32_t count = min(most_tiles, last - begin), end = (begin + count - first) * depth;
    for (uint32_t number = b.own((begin - first) * depth); number < end; number += WARPS) {
      float sum[4][4] = {};
      if constexpr (BITS == 16) {
        const uint32_t slabs = min(8u, a.hidden / 64 - number % depth * 8);
        const uint32_t x_from = x_at + number % depth * 16 * x_step;
        b.acquire();
        const uint32_t stage = b.stage + weights_at;
#pragma unroll 4
        for (uint32_t slab = 0; slab < slabs; slab++) {
          uint32_t x[2][4], weights[4][4];
#pragma unroll
          for (int half = 0; half < 2; half++) load_matrices(x[half], x_from + (2 * slab + half) * x_step);
#pragma unroll
          for (int step = 0; step < 4; step++) {
            load_matrices(weights[step], stage + slab * 2048 + ((2 * step + matrix / 2) ^ eighth) * 16);
          }
#pragma unroll
          for (int step = 0; step < 4; step++) {
            multiply_add_16x8x16(sum[step], weights[step], x[step / 2][step % 2 * 2],
                                 x[step / 2][step % 2 * 2 + 1]);
          }
        }
      } else {
        using F = Form<BITS>;
        const uint32_t most_groups = F::groups(a.hidden), first_group = number % depth * most_groups;
        const uint32_t groups = min(most_groups, a.hidden / 64 - first_group);
        const uint8_t *stage = b.shared + b.warp * STAGE_BYTES;
        b.acquire();
#pragma unroll 2
        for (uint32_t group = 0; group < groups; group++) {
          uint4 x[2];
          load_group(x, b.shared + X_AT + (first_group + group) * 128, b.lane);
          multiply_tile<BITS>(sum[0], sum[1], stage + group * F::TILE_BYTES, x, b.lane);
        }
      }
      b.release();
      if (b.lane % 4 == 0) {
        float *at = sums + (number - (begin - first) * depth) * 16 + b.lane / 4;
        at[0] = (sum[0][0] + sum[1][0]) + (sum[2][0] + sum[3][0]);
        at[8] = (sum[0][2] + sum[1][2]) + (sum[2][2] + sum[3][2]);
      }
    }
    synchronize();
    for (uint32_t i = threadIdx.x; i < count * 8; i += THREADS) {
      const float *from = sums + i / 8 * depth * 16 + i % 8 * 2;
      float2 total = make_float2(0, 0);
#pragma unroll 8
      for (uint32_t k = 0; k < depth; k++) {
        const float2 part = *reinterpret_cast<const float2 *>(from + k * 16);
        total.x += part.x, total.y += part.y;
      }
      const uint32_t output = (begin + i / 8) * 16 + i % 8 * 2;
      if (output >= outputs) continue;
      if (biases) {
        const float2 more = begin == first && i == threadIdx.x ? early : biases[output / 2];
        total.x += more.x, total.y += more.y;
      }
      store(output, total);
    }
    if (begin + most_tiles < last) synchronize();
  }
  b.finish((last - first) * depth);
}

// The sums of W [inputs, outputs] with x for this block's stages into their slots; `read_x` brings the
// activations of some stages, of `inputs`, to shared memory, [stage][Form<BITS>::INPUTS].
template <int BITS, typename Slots, typename ReadX>
__device__ __forceinline__ void transposed(const tandem_gpu_decode &a, Block &b, const Cut &cut,
                                           uint32_t inputs, tandem_device_pointer bias, uint8_t *out,
                                           const Slots &slots, ReadX read_x) {
  const uint32_t begin = cut.begin(blockIdx.x), end = cut.begin(blockIdx.x + 1);
  const uint32_t matrix = b.lane / 8, eighth = b.lane % 8, side = matrix % 2;
  const uint32_t weights_at = (matrix / 2 * 8 + eighth) * 128;
  const uint32_t x_at = eighth == 0 ? b.x + 16 * matrix : b.zero;
  const uint32_t x_stage = eighth == 0 ? 256 : 0, x_step = eighth == 0 ? 64 : 0;
  constexpr uint32_t MOST_STAGES = X_BYTES / (2 * Form<BITS>::INPUTS);
  float *sums = reinterpret_cast<float *>(b.shared + SUMS_AT);  // [warp][output]
  const float *biases = as<const float>(bias);
  float early = 0.0f;
  if (biases) early = biases[min(begin / cut.depth * 64 + threadIdx.x % 64, a.hidden - 1)];
  float sum[4][4] = {};
  uint32_t chunk = begin, chunk_end = begin, last = 0;
  for (uint32_t first = begin; first < end; first = last) {
    if (first == chunk_end) {
      if (first > begin) synchronize();
      chunk = first;
      chunk_end = min(end, chunk + MOST_STAGES);
      read_x(chunk, chunk_end);
      synchronize();
    }
    // Of one tile.
    last = min(chunk_end, (first / cut.depth + 1) * cut.depth);
    for (uint32_t s = begin + b.own(first - begin); s < last; s += WARPS) {
      if constexpr (BITS == 16) {
        const uint32_t x_from = x_at + (s - chunk) * x_stage;
        b.acquire();
        const uint32_t stage = b.stage + weights_at;
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {  // of 16 inputs
          uint32_t x[4];
          load_matrices(x, x_from + pair * x_step);
#pragma unroll
          for (int half = 0; half < 2; half++) {
            uint32_t weights[4][4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
              load_matrices_transposed(weights[j],
                                       stage + (2 * pair + half) * 2048 + ((2 * j + side) ^ eighth) * 16);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
              multiply_add_16x8x16(sum[j], weights[j], x[2 * half], x[2 * half + 1]);
            }
          }
        }
      } else {
        using F = Form<BITS>;
        const uint32_t groups = min(F::GROUPS, inputs / 64 - s % cut.depth * F::GROUPS);
        const uint8_t *x_from = b.shared + X_AT + (s - chunk) * 2 * F::INPUTS;
        const uint8_t *stage = b.shared + b.warp * STAGE_BYTES;
        b.acquire();
#pragma unroll 2
        for (uint32_t group = 0; group < groups; group++) {
          uint4 x[2];
          load_group(x, x_from + group * 128, b.lane);
#pragma unroll
          for (int j = 0; j < 4; j++) {
            multiply_tile<BITS>(sum[j], sum[j], stage + (4 * group + j) * F::TILE_BYTES, x, b.lane);
          }
        }
      }
      b.release();
    }
    if (last != end && last % cut.depth != 0) continue;

    const uint32_t tile = first / cut.depth, slot = blockIdx.x - cut.first_owner(tile);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (b.lane % 4 == 0) {
        float *at = sums + b.warp * 64 + 16 * j + b.lane / 4;
        at[0] = sum[j][0], at[8] = sum[j][2];
      }
      sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0.0f;
    }
    synchronize();
    const uint32_t output = tile * 64 + threadIdx.x;
    if (threadIdx.x < 64 && output < a.hidden) {
      float total = 0.0f;
      if (slot == 0 && biases) total = tile == begin / cut.depth ? early : biases[output];
#pragma unroll
      for (int w = 0; w < WARPS; w++) total += sums[w * 64 + threadIdx.x];
      slots.put(out, tile, slot, output, total);
    }
    if (last != end) synchronize();
  }
  b.finish(end - begin);
}

// MARK: Attention

__device__ __forceinline__ uint4 load_from_l2(const __half *pointer) {
  uint4 value;
  asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(pointer)
               : "memory");
  return value;
}

__device__ __forceinline__ void to_floats(float to[8], const uint4 &from) {
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = __half22float2(reinterpret_cast<const __half2 &>(words[i]));
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

// Asks for the keys and values of this block's first part.
template <int DIMENSION>
__device__ __forceinline__ void ask_for_cache(const tandem_gpu_decode &a, uint32_t layer) {
  if (blockIdx.x >= a.heads * a.attention_parts) return;
  const tandem_gpu_row *r = as<const tandem_gpu_row>(a.row);
  const uint32_t part = blockIdx.x % a.attention_parts, head = blockIdx.x / a.attention_parts;
  const uint32_t position = r->position, length = (position + a.attention_parts) / a.attention_parts;
  const uint32_t begin = part * length, end = min(begin + length, position);
  const size_t capacity = r->capacity, plane = size_t(a.heads) * capacity * DIMENSION;
  const uint8_t *keys =
      as<const uint8_t>(r->cache) + (2 * layer * plane + (head * capacity + begin) * DIMENSION) * 2;
  for (uint32_t at = threadIdx.x * 128; begin < end && at < (end - begin) * DIMENSION * 2;
       at += THREADS * 128) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(keys + at));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(keys + plane * 2 + at));
  }
}

// This block's share of softmax(scale * q . keys^T) . values: parts of the positions of some heads, each with
// the maximum of its scores and the sum of its weights. What earlier steps have left in the cache is asked
// for before the queries are there.
template <int DIMENSION, bool HAS_PEERS>
__device__ __forceinline__ void attend(const tandem_gpu_decode &a, const Block &b, uint32_t layer,
                                       uint8_t *set) {
  constexpr int CHUNKS = DIMENSION / 8, LANES = CHUNKS <= 8 ? 8 : 16, USED = 256;
  constexpr int GROUPS = USED / LANES, COUNT = 128 / GROUPS;
  // The threads behind these only keep step; one of them sees to it that what the block has wiped is seen
  // before what it hands over next, while the others attend.
  const bool is_used = threadIdx.x < USED;
  uint4 *copies = reinterpret_cast<uint4 *>(b.shared + X_AT);
  float4(*sums)[DIMENSION / 4] = reinterpret_cast<float4(*)[DIMENSION / 4]>(b.shared + SUMS_AT);
  __shared__ float maxima[WARPS], totals[WARPS];
  const bool has_chunk = is_used && threadIdx.x % LANES < CHUNKS;
  const uint32_t offset = 8 * min(threadIdx.x % LANES, uint32_t(CHUNKS - 1));
  const tandem_gpu_row *r = as<const tandem_gpu_row>(a.row);
  const size_t capacity = r->capacity;
  const uint32_t position = r->position;
  const uint32_t length = (position + a.attention_parts) / a.attention_parts;  // of a part, rounded up
  const size_t plane = size_t(a.heads) * capacity * DIMENSION;
  synchronize();
  if (threadIdx.x == USED) {
    if constexpr (HAS_PEERS) {
      __threadfence_system();
    } else {
      __threadfence();
    }
  }
  for (uint32_t unit = blockIdx.x; unit < a.heads * a.attention_parts; unit += gridDim.x) {
    const uint32_t part = unit % a.attention_parts, head = unit / a.attention_parts;
    const uint32_t begin = part * length, end = min(begin + length, position + 1);
    __half *keys = as<__half>(r->cache) + 2 * layer * plane + head * capacity * DIMENSION;
    __half *values = keys + plane;
    const __half *query = reinterpret_cast<const __half *>(set) + size_t(head) * DIMENSION;
    const __half *own_key = query + a.heads * DIMENSION, *own_value = own_key + a.heads * DIMENSION;

    float maximum = LOWEST, total = 0.0f, sum[8] = {}, q[8];
    for (uint32_t base = begin; base < end; base += 128) {
      const uint32_t first = is_used ? base + threadIdx.x / LANES : end;
      uint4 k[COUNT];
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const uint32_t p = first + i * GROUPS;
        k[i] = make_uint4(0, 0, 0, 0);
        if (p < end && p < position) k[i] = load_from_l2(keys + size_t(p) * DIMENSION + offset);
      }
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const uint32_t p = first + i * GROUPS;
        if (p < end && p < position) {
          asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                           ring::shared_address(copies + i * USED + threadIdx.x)),
                       "l"(values + size_t(p) * DIMENSION + offset)
                       : "memory");
        } else if (is_used) {
          copies[i * USED + threadIdx.x] = make_uint4(0, 0, 0, 0);
        }
      }
      const bool has_own = base + 128 > position;
      uint4 own_k = make_uint4(0, 0, 0, 0), own_v = own_k, query_bits = own_k;
      read_until_there([&] {
        if (base == begin) query_bits = look(query + offset);
        if (has_own) own_k = look(own_key + offset), own_v = look(own_value + offset);
        return is_there(query_bits) && is_there(own_k) && is_there(own_v);
      });
      if (base == begin) {
        to_floats(q, query_bits);
#pragma unroll
        for (int j = 0; j < 8; j++) q[j] = has_chunk ? q[j] * (a.scale * LOG2_E) : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const uint32_t p = first + i * GROUPS;
        if (is_used && p == position && p < end) {
          k[i] = own_k;
          copies[i * USED + threadIdx.x] = own_v;
          if (has_chunk) {
            *reinterpret_cast<uint4 *>(keys + size_t(p) * DIMENSION + offset) = own_k;
            *reinterpret_cast<uint4 *>(values + size_t(p) * DIMENSION + offset) = own_v;
          }
        }
      }
      float weights[COUNT], highest = maximum;
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        float key[8], score = 0.0f;
        to_floats(key, k[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) score += q[j] * key[j];
        weights[i] = score;
      }
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
          weights[i] += __shfl_xor_sync(~0u, weights[i], distance);
        }
        if (first + i * GROUPS >= end) weights[i] = NO_SCORE;
        highest = fmaxf(highest, weights[i]);
      }
#pragma unroll
      for (int distance = LANES; distance < 32; distance *= 2) {
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, distance));
      }
      const float correction = exponential2(maximum - highest);
      maximum = highest;
      total *= correction;
#pragma unroll
      for (int j = 0; j < 8; j++) sum[j] *= correction;
      asm volatile("cp.async.wait_all;" ::: "memory");
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        const float weight = exponential2(weights[i] - maximum);
        total += weight;
        if (!is_used) continue;
        float value[8];
        to_floats(value, copies[i * USED + threadIdx.x]);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] += weight * value[j];
      }
    }
#pragma unroll
    for (int distance = LANES; distance < 32; distance *= 2) {
      total += __shfl_xor_sync(~0u, total, distance);
#pragma unroll
      for (int j = 0; j < 8; j++) sum[j] += __shfl_xor_sync(~0u, sum[j], distance);
    }
    if (b.lane < LANES && has_chunk) {
      sums[b.warp][offset / 4] = make_float4(sum[0], sum[1], sum[2], sum[3]);
      sums[b.warp][offset / 4 + 1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    }
    if (b.lane == 0) maxima[b.warp] = maximum, totals[b.warp] = total;
    synchronize();
    if (threadIdx.x < DIMENSION) {
      const uint32_t d = threadIdx.x;
      float block_maximum = LOWEST, block_total = 0.0f, block_sum = 0.0f;
#pragma unroll
      for (int w = 0; w < USED / 32; w++) block_maximum = fmaxf(block_maximum, maxima[w]);
#pragma unroll
      for (int w = 0; w < USED / 32; w++) {
        const float weight = exponential2(maxima[w] - block_maximum);
        block_total += weight * totals[w];
        block_sum += weight * reinterpret_cast<const float *>(sums[w])[d];
      }
      hand_over(reinterpret_cast<float *>(set + a.attended) + size_t(unit) * DIMENSION + d,
                __float_as_uint(block_sum));
      if (d < 2) {
        hand_over(reinterpret_cast<float *>(set + a.attended_weights) + unit * 2 + d,
                  __float_as_uint(d == 0 ? block_maximum : block_total));
      }
    }
    if (unit + gridDim.x < a.heads * a.attention_parts) synchronize();
  }
}

// The joined parts of some heads, as the output projection's activations.
template <int DIMENSION, bool HAS_PEERS, int BITS>
__device__ __forceinline__ void read_attended(const tandem_gpu_decode &a, const Block &b, const Cut &cut,
                                              const uint8_t *set, uint32_t begin, uint32_t end) {
  constexpr int TOGETHER = 2,
                PARTS = 4;  // elements that are asked for before the first is used, and parts of each
  constexpr uint32_t INPUTS = Form<BITS>::INPUTS, QUADS = INPUTS / 4;
  uint2 *x = reinterpret_cast<uint2 *>(b.shared + X_AT);
  const uint32_t count = (end - begin) * QUADS;
  for (uint32_t first = threadIdx.x; first < count; first += TOGETHER * THREADS) {
    float4 joined[TOGETHER];
    float maximum[TOGETHER], total[TOGETHER];
    const uint8_t *sums[TOGETHER], *weights[TOGETHER];
#pragma unroll
    for (int n = 0; n < TOGETHER; n++) {
      const uint32_t i = min(first + n * THREADS, count - 1);
      // Behind the last head there are zeros among the weights: any number will do.
      const uint32_t input =
          min((begin + i / QUADS) % cut.depth * INPUTS + i % QUADS * 4, width<DIMENSION, HAS_PEERS>(a) - 4);
      const uint32_t unit = input / DIMENSION * a.attention_parts;
      sums[n] = set + a.attended + (size_t(unit) * DIMENSION + input % DIMENSION) * 4;
      weights[n] = set + a.attended_weights + unit * 8;
      joined[n] = make_float4(0, 0, 0, 0);
      maximum[n] = LOWEST;
      total[n] = 0.0f;
    }
    for (uint32_t part = 0; part < a.attention_parts; part += PARTS) {
      uint4 sum[TOGETHER][PARTS];
      uint2 weight[TOGETHER][PARTS];
      read_until_there([&] {
        bool are_there = true;
#pragma unroll
        for (int n = 0; n < TOGETHER; n++) {
#pragma unroll
          for (int p = 0; p < PARTS; p++) {
            sum[n][p] = make_uint4(0, 0, 0, 0);
            weight[n][p] = make_uint2(__float_as_uint(LOWEST), 0);
            if (part + p < a.attention_parts) {
              sum[n][p] = look(sums[n] + (part + p) * (DIMENSION * 4));
              weight[n][p] = look_2(weights[n] + (part + p) * 8);
            }
          }
        }
#pragma unroll
        for (int n = 0; n < TOGETHER; n++) {
#pragma unroll
          for (int p = 0; p < PARTS; p++) {
            are_there =
                are_there && is_there(sum[n][p]) && weight[n][p].x != EMPTY && weight[n][p].y != EMPTY;
          }
        }
        return are_there;
      });
#pragma unroll
      for (int n = 0; n < TOGETHER; n++) {
        float highest = maximum[n];
#pragma unroll
        for (int p = 0; p < PARTS; p++) highest = fmaxf(highest, __uint_as_float(weight[n][p].x));
        const float correction = exponential2(maximum[n] - highest);
        maximum[n] = highest;
        total[n] *= correction;
        scale(joined[n], correction);
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
          const float factor = exponential2(__uint_as_float(weight[n][p].x) - highest);
          total[n] += factor * __uint_as_float(weight[n][p].y);
          float4 more = floats(sum[n][p]);
          scale(more, factor);
          add(joined[n], more);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < TOGETHER; n++) {
      if (first + n * THREADS >= count) break;
      const __half2 low = __floats2half2_rn(joined[n].x / total[n], joined[n].y / total[n]);
      const __half2 high = __floats2half2_rn(joined[n].z / total[n], joined[n].w / total[n]);
      x[first + n * THREADS] =
          make_uint2(reinterpret_cast<const uint32_t &>(low), reinterpret_cast<const uint32_t &>(high));
    }
  }
}

template <int BITS>
__device__ __forceinline__ void read_neurons(const tandem_gpu_decode &a, const Block &b, const Cut &cut,
                                             const uint8_t *neurons, uint32_t begin, uint32_t end) {
  constexpr int TOGETHER = 4;
  constexpr uint32_t INPUTS = Form<BITS>::INPUTS, EIGHTHS = INPUTS / 8;
  uint4 *x = reinterpret_cast<uint4 *>(b.shared + X_AT);
  const uint32_t count = (end - begin) * EIGHTHS;
  for (uint32_t first = threadIdx.x; first < count; first += TOGETHER * THREADS) {
    uint4 values[TOGETHER];
    read_until_there([&] {
      bool are_there = true;
#pragma unroll
      for (int n = 0; n < TOGETHER; n++) {
        const uint32_t i = first + n * THREADS;
        const uint32_t input = (begin + i / EIGHTHS) % cut.depth * INPUTS + i % EIGHTHS * 8;
        values[n] = make_uint4(0, 0, 0, 0);
        if (i < count && input < a.neuron_count) values[n] = look(neurons + input * 2);
      }
#pragma unroll
      for (int n = 0; n < TOGETHER; n++) are_there = are_there && is_there(values[n]);
      return are_there;
    });
#pragma unroll
    for (int n = 0; n < TOGETHER; n++) {
      if (first + n * THREADS < count) x[first + n * THREADS] = values[n];
    }
  }
}

// Wipes what this block has written of a set; of what all ranks have written into `peer_set`, its share. A
// fence must follow before the layer behind the next hands anything over.
template <int DIMENSION, bool HAS_PEERS>
__device__ __forceinline__ void wipe_own(const tandem_gpu_decode &a, const tandem_gpu_decode_rank *rank,
                                         const Cut &output_cut, const Cut &fc2_cut, uint8_t *set,
                                         uint8_t *peer_set) {
  auto wipe_words = [&](uint8_t *from, uint32_t begin, uint32_t end) {
    for (uint32_t i = begin + threadIdx.x; i < end; i += THREADS) wipe(from + 4 * i);
  };
  auto wipe_outputs = [&](uint8_t *from, uint32_t outputs) {
    const uint32_t tiles = (outputs + 15) / 16;
    wipe_words(from, 8 * tile_begin(tiles, blockIdx.x),
               min(8 * tile_begin(tiles, blockIdx.x + 1), outputs / 2));
  };
  auto wipe_sums = [&](uint8_t *from, const Cut &cut) {
    const uint32_t begin = cut.begin(blockIdx.x), end = cut.begin(blockIdx.x + 1);
    if (begin == end) return;
    for (uint32_t tile = begin / cut.depth; tile <= (end - 1) / cut.depth; tile++) {
      const uint32_t slot = blockIdx.x - cut.first_owner(tile);
      wipe_words(from + size_t(slot) * a.hidden * 4, tile * 64, min(tile * 64 + 64, a.hidden));
    }
  };
  wipe_outputs(set, 3 * width<DIMENSION, HAS_PEERS>(a));
  wipe_outputs(set + a.neurons, a.neuron_count);
  if constexpr (HAS_PEERS) {
    const uint32_t quads = rank->peer_set_byte_count / 16, end = quads * (blockIdx.x + 1) / gridDim.x;
    for (uint32_t i = quads * blockIdx.x / gridDim.x + threadIdx.x; i < end; i += THREADS) {
      wipe_from_peers(peer_set + 16 * i);
    }
  } else {
    wipe_sums(set + a.output_sums, output_cut);
    wipe_sums(set + a.fc2_sums, fc2_cut);
  }
  for (uint32_t unit = blockIdx.x; unit < a.heads * a.attention_parts; unit += gridDim.x) {
    wipe_words(set + a.attended, unit * DIMENSION, (unit + 1) * DIMENSION);
    wipe_words(set + a.attended_weights, unit * 2, unit * 2 + 2);
  }
}

// MARK: The step

// `rank` is given where there are several.
template <int DIMENSION, int QUADS, bool HAS_PEERS, int BITS>
__device__ __forceinline__ void step(const tandem_gpu_decode &a, const tandem_gpu_decode_rank *rank) {
  extern __shared__ uint8_t dynamic[];
  Block b;
  b.stages = (ring::shared_address(dynamic) + 1023) / 1024 * 1024;  // as the swizzle is one of addresses
  b.shared = dynamic + (b.stages - ring::shared_address(dynamic));
  const uint32_t full = b.stages + BARRIERS_AT, empty = full + 8 * STAGES;
  b.zero = empty + 8 * STAGES;
  b.x = b.stages + X_AT;
  b.warp = threadIdx.x / 32;
  b.lane = threadIdx.x % 32;
  b.stage = b.stages + b.warp * STAGE_BYTES;
  b.full = full + 8 * b.warp;
  b.empty = empty + 8 * b.warp;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      ring::initialize_barrier(full + 8 * i, 1);
      ring::initialize_barrier(empty + 8 * i, 1);
    }
    *reinterpret_cast<uint4 *>(b.shared + BARRIERS_AT + 16 * STAGES) = make_uint4(0, 0, 0, 0);
    ring::publish_barriers();
  }
  __syncthreads();
  if (b.warp == WARPS) {
    if (b.lane == 0) feed<DIMENSION, HAS_PEERS, BITS>(a, b);
    return;
  }

  constexpr uint32_t STAGE_INPUTS = Form<BITS>::INPUTS;
  const Cut output_cut(width<DIMENSION, HAS_PEERS>(a), a.hidden, a.output_participants, STAGE_INPUTS);
  const Cut fc2_cut(a.neuron_count, a.hidden, a.fc2_participants, STAGE_INPUTS);
  const uint32_t qkv_outputs = 3 * width<DIMENSION, HAS_PEERS>(a);
  __shared__ tandem_gpu_decode_tile tiles[HAS_PEERS ? 2 * TANDEM_GPU_DECODE_HIDDEN / 64 : 1];
  if constexpr (HAS_PEERS) {
    for (uint32_t i = threadIdx.x; i < a.hidden / 32; i += THREADS) {
      tiles[i] = as<const tandem_gpu_decode_tile>(rank->tiles)[i];
    }
  }
  const auto slots_of = [&](const Cut &cut, uint32_t first_tile) {
    if constexpr (HAS_PEERS) {
      return GroupSlots{*rank, tiles + first_tile};
    } else {
      return OwnSlots{a, cut};
    }
  };
  const auto output_slots = slots_of(output_cut, 0), fc2_slots = slots_of(fc2_cut, a.hidden / 64);
  // A layer's set of what the ranks hand each other, in this one's memory.
  const auto peer_set = [&](uint32_t l) -> uint8_t * {
    if constexpr (HAS_PEERS) {
      return as<uint8_t>(rank->peers[rank->rank]) +
             l % TANDEM_GPU_DECODE_SETS * size_t(rank->peer_set_byte_count);
    }
    return nullptr;
  };
  tandem_gpu_decode_vectors *vectors = reinterpret_cast<tandem_gpu_decode_vectors *>(b.shared + VECTORS_AT);
  for (uint32_t i = threadIdx.x; i < 8 * a.layer_count; i += THREADS) {
    reinterpret_cast<uint64_t *>(vectors)[i] = reinterpret_cast<const uint64_t *>(
        &as<const tandem_gpu_decode_layer>(a.layers)[i / 8].vectors)[i % 8];
  }
  wait_for_predecessors();
  float4 residual[QUADS];
#pragma unroll
  for (int n = 0; n < QUADS; n++) {
    const uint32_t i = threadIdx.x + n * THREADS;
    residual[n] = i < a.hidden / 4 ? __ldcg(as<const float4>(a.residual) + i) : make_float4(0, 0, 0, 0);
  }
  synchronize();
  const uint8_t *sums = nullptr;
  uint8_t *set = nullptr;
  for (uint32_t l = 0; l < a.layer_count; l++) {
    const tandem_gpu_decode_vectors &layer = vectors[l];
    uint8_t *previous = set;
    set = as<uint8_t>(a.exchange) + l % TANDEM_GPU_DECODE_SETS * size_t(a.set_byte_count);
    const auto output_sums = [&] {
      if constexpr (HAS_PEERS) return peer_set(l);
      return set + a.output_sums;
    };
    const auto fc2_sums = [&] {
      if constexpr (HAS_PEERS) return peer_set(l) + rank->peer_fc2_sums;
      return set + a.fc2_sums;
    };
    normalize<QUADS>(a, b, residual, layer.attention_norm_weight, layer.attention_norm_bias, sums, fc2_slots);
    ask_for_cache<DIMENSION>(a, l);
    linear<BITS>(a, b, qkv_outputs, layer.qkv_bias, [&](uint32_t output, float2 sum) {
      const __half2 pair = __floats2half2_rn(sum.x, sum.y);
      hand_over(set + output * 2, reinterpret_cast<const uint32_t &>(pair));
    });
    ask_for(layer.output_bias, a.hidden);
    ask_for(layer.mlp_norm_weight, a.hidden);
    ask_for(layer.mlp_norm_bias, a.hidden);
    ask_for(layer.fc1_bias, a.neuron_count);
    attend<DIMENSION, HAS_PEERS>(a, b, l, set);
    transposed<BITS>(a, b, output_cut, width<DIMENSION, HAS_PEERS>(a), layer.output_bias, output_sums(),
                     output_slots, [&](uint32_t begin, uint32_t end) {
                       read_attended<DIMENSION, HAS_PEERS, BITS>(a, b, output_cut, set, begin, end);
                     });
    normalize<QUADS>(a, b, residual, layer.mlp_norm_weight, layer.mlp_norm_bias, output_sums(), output_slots);
    linear<BITS>(a, b, a.neuron_count, layer.fc1_bias, [&](uint32_t output, float2 sum) {
      const __half2 pair = __floats2half2_rn(activate(sum.x, a.activation), activate(sum.y, a.activation));
      hand_over(set + a.neurons + output * 2, reinterpret_cast<const uint32_t &>(pair));
    });
    // While the neurons of the other blocks are on their way.
    if (previous) {
      wipe_own<DIMENSION, HAS_PEERS>(a, rank, output_cut, fc2_cut, previous, peer_set(l - 1));
    }
    ask_for(layer.fc2_bias, a.hidden);
    if (l + 1 < a.layer_count) {
      ask_for(vectors[l + 1].attention_norm_weight, a.hidden);
      ask_for(vectors[l + 1].attention_norm_bias, a.hidden);
      ask_for(vectors[l + 1].qkv_bias, qkv_outputs);
    }
    transposed<BITS>(a, b, fc2_cut, a.neuron_count, layer.fc2_bias, fc2_sums(), fc2_slots,
                     [&](uint32_t begin, uint32_t end) {
                       read_neurons<BITS>(a, b, fc2_cut, set + a.neurons, begin, end);
                     });
    sums = fc2_sums();
  }
  normalize<QUADS>(a, b, residual, a.final_norm_weight, a.final_norm_bias, sums, fc2_slots);
  uint32_t *counters = as<uint32_t>(a.counters);
  if (threadIdx.x == 0) atomicAdd(counters, 1);
  linear<16>(a, b, a.vocabulary, 0, [&](uint32_t output, float2 sum) {
    if (output + 1 < a.vocabulary) {
      as<float2>(a.logits)[output / 2] = sum;
    } else {
      as<float>(a.logits)[output] = sum.x;
    }
  });

  // The last layer's set is wiped when every block has read it, and the last block to come here leaves the
  // counters as they were found.
  if (threadIdx.x == 0) {
    read_until_there([&] { return *reinterpret_cast<volatile uint32_t *>(counters) >= gridDim.x; });
    __threadfence();
  }
  synchronize();
  wipe_own<DIMENSION, HAS_PEERS>(a, rank, output_cut, fc2_cut, set, peer_set(a.layer_count - 1));
  if (threadIdx.x == 0 && atomicAdd(counters + 1, 1) == gridDim.x - 1) counters[0] = counters[1] = 0;
}

// Of a residual stream, in fours.
__device__ constexpr int quads_of_thread(int most_hidden) {
  return (most_hidden / 4 + THREADS - 1) / THREADS;
}

}  // namespace decode

#define DECODE(name, dimension, most_hidden)                                                \
  extern "C" __global__ void __launch_bounds__(decode::THREADS + 32, 1)                     \
      tandem_kernel_decode_##name(const __grid_constant__ tandem_gpu_decode a) {            \
    launch_successors();                                                                    \
    decode::step<dimension, decode::quads_of_thread(most_hidden), false, 16>(a, nullptr);   \
  }                                                                                         \
  extern "C" __global__ void __launch_bounds__(decode::THREADS + 32, 1)                     \
      tandem_kernel_decode_ranks_##name(const __grid_constant__ tandem_gpu_decode_rank a) { \
    launch_successors();                                                                    \
    decode::step<dimension, decode::quads_of_thread(most_hidden), true, 16>(a.step, &a);    \
  }

// Of quantized weights.
#define DECODE_QUANTIZED(name, bits, dimension, most_hidden)                                \
  extern "C" __global__ void __launch_bounds__(decode::THREADS + 32, 1)                     \
      tandem_kernel_decode_##name(const __grid_constant__ tandem_gpu_decode a) {            \
    launch_successors();                                                                    \
    decode::step<dimension, decode::quads_of_thread(most_hidden), false, bits>(a, nullptr); \
  }

DECODE(64, 64, 4096)
DECODE(80, 80, 4096)
DECODE(128, 128, 4096)
DECODE(128_large, 128, TANDEM_GPU_DECODE_HIDDEN)

DECODE_QUANTIZED(4_bits_64, 4, 64, 4096)
DECODE_QUANTIZED(4_bits_128, 4, 128, 4096)
DECODE_QUANTIZED(4_bits_128_large, 4, 128, TANDEM_GPU_DECODE_HIDDEN)

#endif
