#include "QuantizedCache.cuh"
#include "Ring.cuh"

// A decode step of few rows, from the residual stream to the logits, in one kernel: one block a
// multiprocessor.
//
// Weights do not depend on activations. A warp of each block, the feeder, therefore runs ahead of the others
// through all operations of the step and keeps a ring of stages in shared memory full, 16 KB each in fp16, by
// the copy engine; the memory never waits for the operations, only the operations for it. The other warps
// multiply: they meet the other blocks between operations (five a layer), and what they miss in that time is
// in the ring when they come back: 190 KB are 5 (H200) to 8 us (H100) of the memory's time.
//
// A product of W [outputs, inputs] (queries, keys and values; fc1; logits) is cut over blocks by 16 outputs,
// one of W [inputs, outputs] (output projection, fc2) by 64 outputs x 128 inputs, so that several blocks have
// parts of the same outputs. Their sums stay apart, in slots, until the operation behind reads them together
// with the residual stream, always in the same order: no result depends on which block is first.
//
// Layers' weights of 4 or 8 bits (docs/quantization.md) take the same way, in stages of as many weights:
// tiles that lie one behind the other. The tensor cores multiply codes, and a group's scale and minimum are
// applied to its sum.

#if __CUDA_ARCH__ >= 900

namespace decode {

// Warps that multiply. They take the stages of the ring in turn.
constexpr int WARPS = 11, THREADS = WARPS * 32;

// A stage: of W [outputs, inputs] 16 outputs x 512 inputs, of W [inputs, outputs] 128 inputs x 64 outputs.
constexpr uint32_t LINEAR_INPUTS = 512, INPUTS = TANDEM_GPU_DECODE_STAGE_INPUTS;

template <int BITS>
struct Stage {
  static constexpr uint32_t TILE_BYTES = 128 * BITS + 64;  // 16 outputs x 64 inputs
  static constexpr uint32_t BYTES = BITS == 16 ? TANDEM_GPU_DECODE_STAGE_BYTES : 8 * TILE_BYTES;
  // Stages that are copied together and lie one behind the other in the ring. Of small ones the feeder could
  // not start the copies as fast as the memory of an H200 brings them.
  static constexpr uint32_t UNIT = BITS == 4 ? 3 : 1;
};

// Shared memory. x is that of an operation, or of some stages of W [inputs, outputs]; what it does not need
// is the ring's.
constexpr int SUMS_BYTES = 6144, GROUP_SUMS_AT = SUMS_BYTES, GROUP_SUMS_BYTES = 1024;
constexpr int ZEROS_AT = GROUP_SUMS_AT + GROUP_SUMS_BYTES, ZEROS_BYTES = 128;
constexpr int MOST_STAGES = 64, BARRIERS_AT = ZEROS_AT + ZEROS_BYTES;
constexpr int VECTORS_AT = BARRIERS_AT + 16 * MOST_STAGES;
constexpr int X_AT = VECTORS_AT + TANDEM_GPU_DECODE_LAYERS * sizeof(tandem_gpu_decode_vectors);
constexpr int SUMS_AT = 0, ALIGNMENT = 1024;

template <int MOST_HIDDEN>
struct Layout {
  static constexpr int X_BYTES = MOST_HIDDEN <= 4096 ? 16384 : 32768;
  static constexpr int RING_AT = (X_AT + X_BYTES + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  static constexpr int RING_BYTES = TANDEM_GPU_DECODE_SHARED_BYTES - ALIGNMENT - RING_AT;
  static_assert(RING_BYTES / Stage<4>::BYTES + RING_BYTES / Stage<16>::BYTES <= MOST_STAGES,
                "there are barriers for so many");
  static_assert(X_BYTES / 128 * 4 <= GROUP_SUMS_BYTES && 2 * MOST_HIDDEN <= X_BYTES, "a norm's x");
};
static_assert(THREADS + 32 == TANDEM_GPU_DECODE_BLOCK, "the feeder is one warp more");
constexpr float LOWEST = -1.0e38f, NO_SCORE = -3.0e38f;

__device__ __forceinline__ void synchronize() { ring::synchronize<THREADS>(); }

__device__ __forceinline__ uint32_t linear_depth(uint32_t inputs) {
  return (inputs + LINEAR_INPUTS - 1) / LINEAR_INPUTS;
}

// How the stages of a product of W [inputs, outputs] are cut over blocks: stage s is tile s / depth of the
// outputs and rows s % depth * INPUTS ... of the inputs.
struct Cut {
  uint32_t depth, total, participants;

  __device__ __forceinline__ Cut(uint32_t inputs, uint32_t outputs, uint32_t participants)
      : depth((inputs + INPUTS - 1) / INPUTS),
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

// The stages that a block has of a product. A tile is 16 outputs of W [outputs, inputs], 64 of W [inputs,
// outputs], and has `depth` stages.
struct Share {
  uint32_t tile, end_tile;  // that of the first stage, and the one behind that of the last
  uint32_t k;               // the first stage's place within its tile
  uint32_t depth, count;
  // Of W [inputs, outputs]: the place of the block among those that have a part of its first tile. It is the
  // first one that has a part of its others.
  uint32_t slot;

  // Of W [outputs, inputs].
  __device__ __forceinline__ Share(uint32_t inputs, uint32_t outputs) {
    const uint32_t tiles = (outputs + 15) / 16;
    tile = tiles * blockIdx.x / gridDim.x;
    end_tile = tiles * (blockIdx.x + 1) / gridDim.x;
    k = slot = 0;
    depth = linear_depth(inputs);
    count = (end_tile - tile) * depth;
  }
  // Of W [inputs, outputs].
  __device__ __forceinline__ explicit Share(const Cut &cut) {
    const uint32_t first = cut.begin(blockIdx.x);
    depth = cut.depth;
    count = cut.begin(blockIdx.x + 1) - first;
    tile = first / depth;
    end_tile = count == 0 ? tile : (first + count - 1) / depth + 1;
    k = first % depth;
    slot = count == 0 ? 0 : blockIdx.x - cut.first_owner(tile);
  }
};

// `number`, which counts from a tile's first stage on, within its tile; few tiles at most, so no division.
__device__ __forceinline__ uint32_t stage_of_tile(uint32_t number, uint32_t depth) {
  while (number >= depth) number -= depth;
  return number;
}

// What a block has of the step, the same in all layers. It is found out once and lies in shared memory: a
// division takes as long as thirty other instructions, and between operations all blocks would wait for it.
struct Plan {
  enum Product { QUERIES_KEYS_VALUES, OUTPUT, FC1, FC2, LOGITS, PRODUCTS };
  Share shares[PRODUCTS];
  // Of W [inputs, outputs]: how many blocks have a part of each tile of the output projection, and from
  // hidden / 64 on of fc2; of several ranks, all of theirs.
  tandem_gpu_decode_tile tiles[2 * TANDEM_GPU_DECODE_HIDDEN / 64];
  // The block's first part of attention, and how many positions a part has.
  uint32_t head, part, part_length;
};

struct Block {
  uint32_t warp, lane, x, zero;
  uint8_t *shared, *stages;
  uint32_t ring, ring_bytes, x_bytes;
  // Of the step's row.
  uint32_t position, capacity;
  uint8_t *cache;
  const Plan *plan;
};

template <int BITS>
__device__ __forceinline__ uint32_t unit_count(const Block &b) {
  return b.ring_bytes / (Stage<BITS>::UNIT * Stage<BITS>::BYTES);
}

// A warp's way through the ring: stage `number` of an operation is warp (turn + number) % WARPS's. An
// operation begins with a unit.
template <int BITS>
struct Turns {
  static constexpr uint32_t UNIT = Stage<BITS>::UNIT;
  uint32_t warp, lane, full, empty, stages;
  uint32_t stage, parity = 0;  // the warp's next one, and its round's
  bool is_first_round = true;
  uint32_t turn = 0;

  __device__ __forceinline__ Turns(const Block &b, uint32_t barriers)
      : warp(b.warp),
        lane(b.lane),
        full(barriers),
        empty(barriers + 8 * unit_count<BITS>(b)),
        stages(unit_count<BITS>(b) * UNIT),
        stage(b.warp) {}

  // The first of an operation's stages, from `number` on, that is this warp's.
  __device__ __forceinline__ uint32_t own(uint32_t number) const {
    return number + (warp + WARPS - (turn + number) % WARPS) % WARPS;
  }
  // Waits until the warp's stage is full, and returns where in the ring it begins.
  //
  // Other warps had the unit in the round before, and its copy may be late: until they have let go of it, the
  // round before that one would be taken for this one.
  __device__ __forceinline__ uint32_t acquire() const {
    const uint32_t unit = stage / UNIT;
    if (!is_first_round) ring::wait(empty + 8 * unit, parity ^ 1);
    ring::wait(full + 8 * unit, parity);
    return stage * Stage<BITS>::BYTES;
  }
  __device__ __forceinline__ void release() {
    __syncwarp();
    if (lane == 0) ring::arrive(empty + 8 * (stage / UNIT));
    stage += WARPS;
    if (stage >= stages) stage -= stages, parity ^= 1, is_first_round = false;
  }
  // Behind an operation's stages, of which the last unit may have less than others.
  __device__ __forceinline__ void finish(uint32_t stage_count) {
    const uint32_t end = (stage_count + UNIT - 1) / UNIT * UNIT;
    for (uint32_t number = own(stage_count); UNIT > 1 && number < end; number += WARPS) {
      acquire();
      release();
    }
    turn = (turn + end) % WARPS;
  }
};

// What the heads have together: of one rank among several less than the hidden size.
template <int DIMENSION, bool HAS_PEERS>
__device__ __forceinline__ uint32_t width(const tandem_gpu_decode &a) {
  return HAS_PEERS ? a.heads * DIMENSION : a.hidden;
}

// Finds out what the block has, but for what depends on the row. All threads of the block take part.
template <int DIMENSION, bool HAS_PEERS>
__device__ __forceinline__ void make_plan(Plan &plan, const tandem_gpu_decode &a,
                                          const tandem_gpu_decode_rank *rank) {
  const uint32_t heads_width = width<DIMENSION, HAS_PEERS>(a);
  const Cut output(heads_width, a.hidden, a.output_participants);
  const Cut fc2(a.neuron_count, a.hidden, a.fc2_participants);
  if (threadIdx.x == 0) {
    plan.shares[Plan::QUERIES_KEYS_VALUES] = Share(a.hidden, 3 * heads_width);
    plan.shares[Plan::OUTPUT] = Share(output);
    plan.shares[Plan::FC1] = Share(a.hidden, a.neuron_count);
    plan.shares[Plan::FC2] = Share(fc2);
    plan.shares[Plan::LOGITS] = Share(a.hidden, a.vocabulary);
    plan.head = blockIdx.x / a.attention_parts;
    plan.part = blockIdx.x % a.attention_parts;
  }
  const uint32_t tiles = a.hidden / 64;
  for (uint32_t i = threadIdx.x; i < 2 * tiles; i += blockDim.x) {
    if constexpr (HAS_PEERS) {
      plan.tiles[i] = as<const tandem_gpu_decode_tile>(rank->tiles)[i];
    } else {
      const uint32_t slots = i < tiles ? output.slot_count(i) : fc2.slot_count(i - tiles);
      plan.tiles[i] = {0, uint8_t(slots)};
    }
  }
}

// MARK: The feeder

// What all lanes of the warp have. The compiler then keeps it where the copy engine takes it from.
__device__ __forceinline__ uint32_t uniform(uint32_t value) { return __shfl_sync(~0u, value, 0); }

// The block's stages of one product of a step, one after the other. There are four products a layer, then the
// logits.
template <int DIMENSION, bool HAS_PEERS, int BITS>
struct Operation {
  const uint64_t *map;
  bool is_transposed;
  uint32_t tile, k, depth, count;  // of the next stage, see Share
  // Of quantized weights: where its bytes begin, in runs of so many bytes. In W [outputs, inputs] all stages
  // of a block lie one behind the other.
  const uint8_t *weights, *from;
  uint32_t groups, run_bytes, between_runs;

  __device__ __forceinline__ Operation(const tandem_gpu_decode &a, const Plan &plan, uint32_t number) {
    const tandem_gpu_decode_layer *layer = as<const tandem_gpu_decode_layer>(a.layers) + number / 4;
    const bool is_logits = number == 4 * a.layer_count, is_attention = number % 4 < 2;
    is_transposed = number % 2 == 1;
    map = is_logits       ? as<const uint64_t>(a.logits_map)
          : is_transposed ? (is_attention ? layer->output : layer->fc2)
                          : (is_attention ? layer->qkv : layer->fc1);
    const Share &share = plan.shares[is_logits ? uint32_t(Plan::LOGITS) : number % 4];
    tile = uniform(share.tile);
    k = uniform(share.k);
    depth = uniform(share.depth);
    count = uniform(share.count);
    if constexpr (BITS != 16) {
      constexpr uint32_t TILE_BYTES = Stage<BITS>::TILE_BYTES;
      // Their address is where others have the map.
      const uint64_t address = __ldg(map);
      weights = reinterpret_cast<const uint8_t *>(uint64_t(uniform(address >> 32)) << 32 | uniform(address));
      const uint32_t inputs = !is_transposed ? a.hidden
                              : is_attention ? width<DIMENSION, HAS_PEERS>(a)
                                             : a.neuron_count;
      groups = inputs / 64;
      run_bytes = is_transposed ? 4 * TILE_BYTES : 8 * TILE_BYTES;
      between_runs = is_transposed ? a.hidden / 16 * TILE_BYTES : TILE_BYTES;
      from = weights + (is_transposed ? size_t(2 * k) * between_runs + size_t(tile) * run_bytes
                                      : size_t(tile) * groups * TILE_BYTES);
    }
  }

  // A stage: its place for a map, or where it begins and its bytes.
  struct Piece {
    uint32_t tile, k;
    const uint8_t *from;
    uint32_t byte_count;
  };
  // Goes on to the next stage.
  __device__ __forceinline__ Piece next() {
    Piece piece = {tile, k, nullptr, Stage<16>::BYTES};
    if constexpr (BITS != 16) {
      piece.from = from;
      piece.byte_count = is_transposed ? min(2u, groups - 2 * k) * run_bytes
                                       : min(8u, groups - 8 * k) * Stage<BITS>::TILE_BYTES;
      from += is_transposed ? 2 * between_runs : piece.byte_count;
    }
    if (++k == depth) {
      k = 0;
      tile++;
      if constexpr (BITS != 16) {
        if (is_transposed) from = weights + size_t(tile) * run_bytes;
      }
    }
    return piece;
  }
  // Starts a stage's copy; by one lane.
  __device__ __forceinline__ void copy(uint32_t to, const Piece &piece, uint32_t barrier,
                                       uint64_t policy) const {
    if constexpr (BITS == 16) {
      if (is_transposed) {
        ring::copy_box(to, map, piece.tile * 64, piece.k * 128, barrier, policy);
      } else {
        ring::copy_box(to, map, 0, piece.tile * 16, piece.k * 8, barrier, policy);
      }
    } else {
      ring::copy_bytes(to, piece.from, min(piece.byte_count, run_bytes), barrier, policy);
      if (piece.byte_count > run_bytes) {
        ring::copy_bytes(to + run_bytes, piece.from + between_runs, run_bytes, barrier, policy);
      }
    }
  }
};

// Keeps the ring full through the operations `number` ... `end` - 1; returns how many units that were.
// `wait_for_unit` waits until what was in a unit's place before it is filled for the first time is no longer
// needed. All lanes go the same way, and one of them starts the copies.
template <int DIMENSION, bool HAS_PEERS, int BITS, typename Wait>
__device__ __forceinline__ uint32_t feed(const tandem_gpu_decode &a, const Block &b, uint32_t barriers,
                                         uint32_t number, uint32_t end, Wait wait_for_unit) {
  using Operation = decode::Operation<DIMENSION, HAS_PEERS, BITS>;
  constexpr uint32_t UNIT = Stage<BITS>::UNIT, BYTES = Stage<BITS>::BYTES;
  const uint32_t units = unit_count<BITS>(b), full = barriers, empty = full + 8 * units;
  const uint32_t pace = a.pace * (UNIT * BYTES / 64) / (TANDEM_GPU_DECODE_STAGE_BYTES / 64);
  const uint64_t policy = ring::evict_first();
  uint32_t filled = 0, unit = 0, parity = 1, last = clock();
  for (; number < end; number++) {
    Operation operation(a, *b.plan, number);
#pragma unroll 1
    for (uint32_t n = 0; n < operation.count; n += UNIT) {
      if (filled < units) {
        wait_for_unit(unit);
      } else {
        ring::wait(empty + 8 * unit, parity);
      }
      uint32_t now = clock();
      while (now - last < pace) now = clock();
      last = now;
      typename Operation::Piece pieces[UNIT];
      uint32_t byte_count = 0;
#pragma unroll
      for (uint32_t i = 0; i < UNIT; i++) {
        pieces[i].byte_count = 0;
        if (n + i < operation.count) pieces[i] = operation.next();
        byte_count += pieces[i].byte_count;
      }
      if (ring::is_elected()) {
        const uint32_t to = b.ring + unit * (UNIT * BYTES), barrier = full + 8 * unit;
        ring::expect_bytes(barrier, byte_count);
#pragma unroll
        for (uint32_t i = 0; i < UNIT; i++) {
          if (pieces[i].byte_count > 0) operation.copy(to + i * BYTES, pieces[i], barrier, policy);
        }
      }
      filled++;
      if (++unit == units) unit = 0, parity ^= 1;
    }
  }
  return filled;
}

// The whole step. Logits have weights of 16 bits in any case: their ring, with barriers of its own, lies
// where that of other layers was.
template <int DIMENSION, bool HAS_PEERS, int BITS>
__device__ __forceinline__ void feed(const tandem_gpu_decode &a, const Block &b, uint32_t barriers) {
  const uint32_t layers = 4 * a.layer_count;
  const auto at_once = [](uint32_t) {};
  if constexpr (BITS == 16) {
    feed<DIMENSION, HAS_PEERS, 16>(a, b, barriers, 0, layers + 1, at_once);
  } else {
    const uint32_t units = unit_count<BITS>(b);
    constexpr uint32_t UNIT_BYTES = Stage<BITS>::UNIT * Stage<BITS>::BYTES;
    const uint32_t filled = feed<DIMENSION, HAS_PEERS, BITS>(a, b, barriers, 0, layers, at_once);
    feed<DIMENSION, HAS_PEERS, 16>(a, b, barriers + 16 * units, layers, layers + 1, [&](uint32_t stage) {
      const uint32_t end = (stage + 1) * Stage<16>::BYTES;
      for (uint32_t old = stage * Stage<16>::BYTES / UNIT_BYTES; old < units && old * UNIT_BYTES < end;
           old++) {
        if (filled <= old) continue;
        const uint32_t rounds = (filled - old - 1) / units;  // behind the first
        ring::wait(barriers + 8 * (units + old), rounds & 1);
      }
    });
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
  // The body once: instructions that several rounds take are brought in again in every layer.
  uint32_t attempt = 0;
  bool are_there;
#pragma unroll 1
  do {
    are_there = read();
    if (++attempt > MOST_ATTEMPTS) __trap();
  } while (!are_there);
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
  const tandem_gpu_decode_tile *tiles;

  __device__ __forceinline__ uint32_t count(uint32_t tile) const { return tiles[tile].slot_count; }
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
#pragma unroll 1
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

__device__ __forceinline__ float sum_of(__half2 pair) { return __low2float(pair) + __high2float(pair); }

// The sum of a group of x, of which COUNT threads side by side have a part each.
template <int COUNT>
__device__ __forceinline__ void put_group_sum(const Block &b, uint32_t group, float part) {
  const uint32_t first = b.lane / COUNT * COUNT, mask = ((1u << COUNT) - 1) << first;
#pragma unroll
  for (int distance = COUNT / 2; distance > 0; distance /= 2) {
    part += __shfl_xor_sync(mask, part, distance);
  }
  if (b.lane == first) reinterpret_cast<float *>(b.shared + GROUP_SUMS_AT)[group] = part;
}

// x = layer norm of the residual stream, to which the sums of the operation in front are added first. Every
// block has the whole stream, a thread up to QUADS times four of its elements.
template <int QUADS, bool HAS_GROUP_SUMS, typename Slots>
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
    if (i >= quads) break;  // whole groups of sixteen threads
    const float4 v = residual[n];
    const float4 w = IS_EARLY ? weight[IS_EARLY ? n : 0] : weights ? weights[i] : one;
    const float4 c = IS_EARLY ? bias[IS_EARLY ? n : 0] : biases ? biases[i] : zero;
    const __half2 low = __floats2half2_rn((v.x - mean) * scale * w.x + c.x, (v.y - mean) * scale * w.y + c.y);
    const __half2 high =
        __floats2half2_rn((v.z - mean) * scale * w.z + c.z, (v.w - mean) * scale * w.w + c.w);
    reinterpret_cast<uint2 *>(b.shared + X_AT)[i] =
        make_uint2(reinterpret_cast<const uint32_t &>(low), reinterpret_cast<const uint32_t &>(high));
    if constexpr (HAS_GROUP_SUMS) put_group_sum<16>(b, i / 16, sum_of(low) + sum_of(high));
  }
  synchronize();
}

// MARK: Products

// As bits of a half a code of up to 10 bits is the number code * 2^-24, which the tensor cores take exactly.
constexpr float ONE = 16777216.0f, SIXTEENTH = ONE / 16;

// The inputs of a lane within 32 bits of codes of 4: of four the codes are as they lie, of four 16 times as
// much.
__device__ __forceinline__ void split_codes(uint32_t ones[2], uint32_t sixteens[2], uint32_t word) {
  const uint32_t later = word >> 8;
  ones[0] = word & 0x000f000f, ones[1] = later & 0x000f000f;
  sixteens[0] = word & 0x00f000f0, sixteens[1] = later & 0x00f000f0;
}

// The same of codes of 8 bits.
__device__ __forceinline__ void split_codes(uint32_t ones[2], uint32_t word) {
  ones[0] = __byte_perm(word, 0, 0x4240), ones[1] = __byte_perm(word, 0, 0x4341);
}

// Two products with 16 bytes of x, whose first half is the one's and whose second half the other's. Of rows g
// and g + 8 the lane has two pairs of numbers for each.
__device__ __forceinline__ void multiply_add_rows(float sums[4], float other_sums[4],
                                                  const uint32_t rows[2][2], const uint32_t other_rows[2][2],
                                                  const uint4 &x) {
  const uint32_t first[4] = {rows[0][0], rows[1][0], rows[0][1], rows[1][1]};
  const uint32_t second[4] = {other_rows[0][0], other_rows[1][0], other_rows[0][1], other_rows[1][1]};
  multiply_add_16x8x16(sums, first, x.x, x.y);
  multiply_add_16x8x16(other_sums, second, x.z, x.w);
}

// A stage of quantized weights is eight tiles. The tensor cores multiply each of them by eight columns of x,
// of which column i has what tile i is to be multiplied by: a group's 64 elements, of which lane (g, t) has
// those of column g. What counts of the products of tile i is column i, which lanes of t = i / 2 have; so
// every lane keeps the sums of two tiles, 2t and 2t + 1, and applies two groups' scales and minimums to them.
template <int BITS>
struct StageProducts {
  static constexpr int CHAINS = BITS == 4 ? 2 : 1;  // of codes, and of those that are 16 times as much
  float chains[CHAINS][2][2];                       // [tile 2t or 2t + 1][output g or g + 8]

  // `x` is where the group of column g begins; tile i is `place(i)` tiles behind the stage's beginning.
  template <typename Place>
  __device__ __forceinline__ StageProducts(const uint8_t *stage, const uint8_t *x, uint32_t lane,
                                           Place place) {
    const uint32_t g = lane / 4, t = lane % 4;
    uint4 of_x[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      of_x[half] = *reinterpret_cast<const uint4 *>(x + 64 * half + 16 * t);
    }
#pragma unroll
    for (uint32_t pair = 0; pair < 4; pair++) {
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const uint8_t *tile = stage + place(2 * pair + n) * Stage<BITS>::TILE_BYTES + 8 * g;
        float products[CHAINS][4] = {};
#pragma unroll
        for (int half = 0; half < 2; half++) {
          uint32_t first[2][2], second[2][2];  // [output][two inputs]
          if constexpr (BITS == 4) {
            const uint2 codes = *reinterpret_cast<const uint2 *>(tile + 64 * (4 * half + t));
            split_codes(first[0], second[0], codes.x);
            split_codes(first[1], second[1], codes.y);
          } else {
            const uint2 *codes = reinterpret_cast<const uint2 *>(tile + 64 * (8 * half + 2 * t));
            split_codes(first[0], codes[0].x);
            split_codes(first[1], codes[0].y);
            split_codes(second[0], codes[8].x);
            split_codes(second[1], codes[8].y);
          }
          multiply_add_rows(products[0], products[CHAINS - 1], first, second, of_x[half]);
        }
#pragma unroll
        for (int chain = 0; chain < CHAINS; chain++) {
#pragma unroll
          for (int output = 0; output < 2; output++) {
            float &sum = chains[chain][n][output];
            const float product = products[chain][2 * output + n];
            sum = pair == 0 || t == pair ? product : sum;
          }
        }
      }
    }
  }

  // sums[output] += what tile 2t + n of the two gives, of which `tile` is the beginning.
  __device__ __forceinline__ void add(float sums[2], int n, const uint8_t *tile, float sum_of_x,
                                      uint32_t lane) const {
    const uint32_t *words = reinterpret_cast<const uint32_t *>(tile + 128 * BITS) + lane / 4;
    const float2 scales = __half22float2(quantized::halves(words[0]));
    const float2 minimums = __half22float2(quantized::halves(words[8]));
    float products[2];
#pragma unroll
    for (int output = 0; output < 2; output++) {
      products[output] = chains[0][n][output] * ONE;
      if constexpr (CHAINS == 2) products[output] += chains[1][n][output] * SIXTEENTH;
    }
    sums[0] += scales.x * products[0] + minimums.x * sum_of_x;
    sums[1] += scales.y * products[1] + minimums.y * sum_of_x;
  }
};

// y[o] = activation(bias[o] + sum over i of x[i] * W[o, i]) for this block's outputs, two at a time to
// `store`; x is in shared memory. The warps take stages in turn, 16 outputs x 512 inputs each, so that those
// that are there are multiplied side by side.
template <int BITS, typename Store>
__device__ __forceinline__ void linear(const tandem_gpu_decode &a, const Block &b, Turns<BITS> &turns,
                                       const Share &share, uint32_t outputs, tandem_device_pointer bias,
                                       Store store) {
  const uint32_t first = share.tile, last = share.end_tile, depth = share.depth;
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
    uint32_t k = turns.own((begin - first) * depth) - (begin - first) * depth;
    for (uint32_t number = (begin - first) * depth + k; number < end; number += WARPS, k += WARPS) {
      while (k >= depth) k -= depth;  // the stage's place within its tile
      float low, high;                // of outputs g and g + 8
      if constexpr (BITS == 16) {
        float sum[4][4] = {};
        const uint32_t slabs = min(8u, a.hidden / 64 - k * 8);
        const uint32_t x_from = x_at + k * 16 * x_step;
        const uint32_t stage = b.ring + turns.acquire() + weights_at;
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
        low = (sum[0][0] + sum[1][0]) + (sum[2][0] + sum[3][0]);
        high = (sum[0][2] + sum[1][2]) + (sum[2][2] + sum[3][2]);
      } else {
        // A group's 64 inputs are a tile.
        const uint32_t first_group = k * 8, groups = min(8u, a.hidden / 64 - first_group), t = b.lane % 4;
        const uint8_t *x = b.shared + X_AT + (first_group + b.lane / 4) * 128;
        const float *group_sums = reinterpret_cast<const float *>(b.shared + GROUP_SUMS_AT) + first_group;
        const uint8_t *stage = b.stages + turns.acquire();
        const StageProducts<BITS> products(stage, x, b.lane, [](uint32_t i) { return i; });
        float sum[2] = {};
#pragma unroll
        for (int n = 0; n < 2; n++) {
          const uint32_t i = 2 * t + n;
          if (i < groups) products.add(sum, n, stage + i * Stage<BITS>::TILE_BYTES, group_sums[i], b.lane);
        }
#pragma unroll
        for (int output = 0; output < 2; output++) {
#pragma unroll
          for (int distance = 1; distance < 4; distance *= 2) {
            sum[output] += __shfl_xor_sync(~0u, sum[output], distance);
          }
        }
        low = sum[0], high = sum[1];
      }
      turns.release();
      if (b.lane % 4 == 0) {
        float *at = sums + (number - (begin - first) * depth) * 16 + b.lane / 4;
        at[0] = low, at[8] = high;
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
  turns.finish(share.count);
}

// The sums of W [inputs, outputs] with x for this block's stages into their slots; `read_x` brings the
// activations of so many stages to shared memory, [stage][INPUTS], of which the first has that place in its
// tile.
template <int BITS, typename Slots, typename ReadX>
__device__ __forceinline__ void transposed(const tandem_gpu_decode &a, const Block &b, Turns<BITS> &turns,
                                           const Share &share, uint32_t inputs, tandem_device_pointer bias,
                                           uint8_t *out, const Slots &slots, ReadX read_x) {
  const uint32_t count = share.count, depth = share.depth;
  const uint32_t matrix = b.lane / 8, eighth = b.lane % 8, side = matrix % 2;
  const uint32_t weights_at = (matrix / 2 * 8 + eighth) * 128;
  const uint32_t x_at = eighth == 0 ? b.x + 16 * matrix : b.zero;
  const uint32_t x_stage = eighth == 0 ? 256 : 0, x_step = eighth == 0 ? 64 : 0;
  const uint32_t most_stages = b.x_bytes / (2 * INPUTS);
  float *sums = reinterpret_cast<float *>(b.shared + SUMS_AT);  // [warp][output]
  const float *biases = as<const float>(bias);
  float early = 0.0f;
  if (biases) early = biases[min(share.tile * 64 + threadIdx.x % 64, a.hidden - 1)];
  float sum[4][4] = {}, tile_sums[2] = {};  // the latter of quantized weights
  // Stages count from the block's first one. x is there of those from `chunk` on.
  uint32_t chunk = 0, chunk_end = 0, tile = share.tile, tile_end = depth - share.k, last = 0;
  for (uint32_t first = 0; first < count; first = last) {
    if (first == chunk_end) {
      if (first > 0) synchronize();
      chunk = first;
      chunk_end = min(count, chunk + most_stages);
      read_x(chunk + depth - tile_end, chunk_end - chunk);
      synchronize();
    }
    last = min(chunk_end, tile_end);
    for (uint32_t s = turns.own(first); s < last; s += WARPS) {
      if constexpr (BITS == 16) {
        const uint32_t x_from = x_at + (s - chunk) * x_stage;
        const uint32_t stage = b.ring + turns.acquire() + weights_at;
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
        // Two groups of 64 inputs, four tiles of outputs each, of which lanes of t have the t-th.
        const uint32_t groups = min(2u, inputs / 64 - (s + depth - tile_end) * 2), t = b.lane % 4;
        const uint32_t first_group = (s - chunk) * 2;
        const uint8_t *x = b.shared + X_AT + (first_group + b.lane / 4 % 2) * 128;
        const float *group_sums = reinterpret_cast<const float *>(b.shared + GROUP_SUMS_AT) + first_group;
        const uint8_t *stage = b.stages + turns.acquire();
        const StageProducts<BITS> products(stage, x, b.lane, [](uint32_t i) { return i % 2 * 4 + i / 2; });
#pragma unroll
        for (int n = 0; n < 2; n++) {
          if (n < groups) {
            products.add(tile_sums, n, stage + (4 * n + t) * Stage<BITS>::TILE_BYTES, group_sums[n], b.lane);
          }
        }
      }
      turns.release();
    }
    if (last < count && last < tile_end) continue;

    const uint32_t slot = tile == share.tile ? share.slot : 0;
    float *at = sums + b.warp * 64 + b.lane / 4;
    if constexpr (BITS == 16) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (b.lane % 4 == 0) at[16 * j] = sum[j][0], at[16 * j + 8] = sum[j][2];
        sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0.0f;
      }
    } else {
      at += 16 * (b.lane % 4);
      at[0] = tile_sums[0], at[8] = tile_sums[1];
      tile_sums[0] = tile_sums[1] = 0.0f;
    }
    synchronize();
    const uint32_t output = tile * 64 + threadIdx.x;
    if (threadIdx.x < 64 && output < a.hidden) {
      float total = 0.0f;
      if (slot == 0 && biases) total = tile == share.tile ? early : biases[output];
#pragma unroll
      for (int w = 0; w < WARPS; w++) total += sums[w * 64 + threadIdx.x];
      slots.put(out, tile, slot, output, total);
    }
    if (last < count) synchronize();
    tile++, tile_end += depth;
  }
  turns.finish(count);
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

__device__ __forceinline__ uint32_t load_from_l2(const uint32_t *pointer) {
  uint32_t value;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(value) : "l"(pointer) : "memory");
  return value;
}

// 16 positions of a head's cache as a warp has them for the tensor cores: keys as first operands, a row a
// position, with the query behind them in one column; values as second operands, pairs of positions. Lane (g,
// t) has of the keys those of positions g and g + 8, of the values those of 2t, 2t + 1, 2t + 8 and 2t + 9.
struct PositionsBase {
  static constexpr uint32_t COUNT = 16;
  uint32_t g, t;
  // Which of them is the step's own one, COUNT or more where none is.
  uint32_t own;

  __device__ __forceinline__ uint32_t key_place(int row) const { return g + 8 * row; }
  __device__ __forceinline__ uint32_t value_place(int i) const { return 2 * t + i % 2 + 8 * (i / 2); }
};

template <int DIMENSION, int BITS>
struct Positions;

template <int DIMENSION>
struct Positions<DIMENSION, 16> : PositionsBase {
  static constexpr uint32_t BYTES = 2 * DIMENSION;
  static constexpr int CHUNKS = (DIMENSION + 31) / 32, HALVES = (DIMENSION + 63) / 64;
  uint4 k[CHUNKS][2], v[HALVES][4], q[CHUNKS];

  // The lane's eight dimensions of a chunk of keys, and of 64 of the values.
  __device__ __forceinline__ uint32_t key_offset(int chunk) const { return 32 * chunk + 8 * t; }
  __device__ __forceinline__ uint32_t value_offset(int half) const { return 64 * half + 8 * g; }
  __device__ __forceinline__ static bool is_inside(uint32_t offset) {
    return DIMENSION % 64 == 0 || offset < DIMENSION;
  }

  // Those of the positions from `first` on that are in front of `end`.
  __device__ __forceinline__ void load(const uint8_t *keys, const uint8_t *values, uint32_t first,
                                       uint32_t end) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      q[c] = make_uint4(0, 0, 0, 0);
#pragma unroll
      for (int row = 0; row < 2; row++) {
        const uint32_t p = first + key_place(row);
        k[c][row] = make_uint4(0, 0, 0, 0);
        if (p < end && is_inside(key_offset(c))) {
          k[c][row] =
              load_from_l2(reinterpret_cast<const __half *>(keys + size_t(p) * BYTES) + key_offset(c));
        }
      }
    }
#pragma unroll
    for (int h = 0; h < HALVES; h++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const uint32_t p = first + value_place(i);
        v[h][i] = make_uint4(0, 0, 0, 0);
        if (p < end && is_inside(value_offset(h))) {
          v[h][i] =
              load_from_l2(reinterpret_cast<const __half *>(values + size_t(p) * BYTES) + value_offset(h));
        }
      }
    }
  }

  // The query, and the own key, which is put into the cache at `key`.
  __device__ __forceinline__ void take_query_and_key(const __half *query, const __half *own_key,
                                                     uint8_t *key) {
    read_until_there([&] {
      bool are_there = true;
      if (g == 0) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
          if (!is_inside(key_offset(c))) continue;
          q[c] = look(query + key_offset(c));
          are_there = are_there && is_there(q[c]);
        }
      }
      if (own >= COUNT) return are_there;
#pragma unroll
      for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
          if (own != key_place(row) || !is_inside(key_offset(c))) continue;
          k[c][row] = look(own_key + key_offset(c));
          are_there = are_there && is_there(k[c][row]);
        }
      }
      return are_there;
    });
    __syncwarp();
    if (own >= COUNT) return;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int row = 0; row < 2; row++) {
        if (own != key_place(row) || !is_inside(key_offset(c))) continue;
        *reinterpret_cast<uint4 *>(key + 2 * key_offset(c)) = k[c][row];
      }
    }
  }

  // Of positions g and g + 8, in lanes of t = 0.
  __device__ __forceinline__ float2 scores() const {
    float sums[2][4] = {};
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      const uint4 low = k[c][0], high = k[c][1];
      const uint32_t first[4] = {low.x, high.x, low.y, high.y};
      const uint32_t second[4] = {low.z, high.z, low.w, high.w};
      multiply_add_16x8x16(sums[0], first, q[c].x, q[c].y);
      multiply_add_16x8x16(sums[1], second, q[c].z, q[c].w);
    }
    return make_float2(sums[0][0] + sums[1][0], sums[0][2] + sums[1][2]);
  }

  __device__ __forceinline__ void take_value(const __half *own_value, uint8_t *value) {
    if (own < COUNT) {
      read_until_there([&] {
        bool are_there = true;
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            if (own != value_place(i) || !is_inside(value_offset(h))) continue;
            v[h][i] = look(own_value + value_offset(h));
            are_there = are_there && is_there(v[h][i]);
          }
        }
        return are_there;
      });
#pragma unroll
      for (int h = 0; h < HALVES; h++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (own != value_place(i) || !is_inside(value_offset(h))) continue;
          *reinterpret_cast<uint4 *>(value + 2 * value_offset(h)) = v[h][i];
        }
      }
    }
    __syncwarp();
  }

  // Of lanes of one t: dimension j of a quad of the first two positions (i = 0) or of the other two.
  __device__ __forceinline__ uint32_t pair(int h, int quad, int j, int i) const {
    const auto word = [&](const uint4 &from) {
      return quad ? (j < 2 ? from.z : from.w) : j < 2 ? from.x : from.y;
    };
    constexpr uint32_t LOWER = 0x5410, UPPER = 0x7632;
    return __byte_perm(word(v[h][2 * i]), word(v[h][2 * i + 1]), j % 2 ? UPPER : LOWER);
  }
  // The first dimension of the quad of the lanes of one g.
  __device__ __forceinline__ static uint32_t dimension(int h, int quad, uint32_t g) {
    return 64 * h + 8 * g + 4 * quad;
  }
};

// The same in 4 bits (QuantizedCache.cuh): a lane has a word of codes for eight dimensions, four of the first
// half of a group and four of the second. Keys are multiplied as codes, as weights are.
template <int DIMENSION>
struct Positions<DIMENSION, 4> : PositionsBase {
  static_assert(DIMENSION % 64 == 0, "whole groups");
  static constexpr uint32_t BYTES = quantized_cache::position_bytes(DIMENSION);
  static constexpr int GROUPS = DIMENSION / 64;
  uint32_t k[GROUPS][2][2], key_scales[GROUPS][2];  // [group][word t or t + 4][row]
  uint32_t v[GROUPS][4], value_scales[GROUPS][4];   // the word g
  uint32_t q[GROUPS][2][4];                         // as second operands
  float query_sums[GROUPS];

  __device__ __forceinline__ static bool is_inside(uint32_t) { return true; }

  __device__ __forceinline__ void load(const uint8_t *keys, const uint8_t *values, uint32_t first,
                                       uint32_t end) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
#pragma unroll
      for (int row = 0; row < 2; row++) {
        const uint32_t p = first + key_place(row);
        const uint32_t *from = reinterpret_cast<const uint32_t *>(keys + size_t(p) * BYTES);
        k[group][0][row] = k[group][1][row] = key_scales[group][row] = 0;
        if (p >= end) continue;
        k[group][0][row] = load_from_l2(from + 8 * group + t);
        k[group][1][row] = load_from_l2(from + 8 * group + 4 + t);
        key_scales[group][row] = load_from_l2(from + DIMENSION / 8 + group);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const uint32_t p = first + value_place(i);
        const uint32_t *from = reinterpret_cast<const uint32_t *>(values + size_t(p) * BYTES);
        v[group][i] = value_scales[group][i] = 0;
        if (p >= end) continue;
        v[group][i] = load_from_l2(from + 8 * group + g);
        value_scales[group][i] = load_from_l2(from + DIMENSION / 8 + group);
      }
    }
  }

  // A word's elements in fp16: four, and four half a group behind them.
  struct Elements {
    uint2 low, high;

    __device__ __forceinline__ bool look(const __half *from, int group, uint32_t word) {
      low = look_2(from + 64 * group + 4 * word);
      high = look_2(from + 64 * group + 32 + 4 * word);
      return low.x != EMPTY && low.y != EMPTY && high.x != EMPTY && high.y != EMPTY;
    }
    __device__ __forceinline__ uint4 bits() const { return make_uint4(low.x, low.y, high.x, high.y); }
  };

  __device__ __forceinline__ void take_query_and_key(const __half *query, const __half *own_key,
                                                     uint8_t *key) {
    Elements of_query[GROUPS][2], of_key[GROUPS][2];
    read_until_there([&] {
      bool are_there = true;
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
          are_there = of_query[group][n].look(query, group, t + 4 * n) && are_there;
          // All rows' lanes round it, and those of the own one keep it.
          if (own < COUNT) are_there = of_key[group][n].look(own_key, group, t + 4 * n) && are_there;
        }
      }
      return are_there;
    });
    __syncwarp();
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const Elements &of = of_query[group][n];
        const uint4 in_order = quantized_cache::reorder(of.bits());
        const uint32_t pairs[4] = {in_order.x, in_order.y, in_order.z, in_order.w};
#pragma unroll
        for (int i = 0; i < 4; i++) q[group][n][i] = g == 0 ? pairs[i] : 0;
        float x[8];
        to_floats(x, of.bits());
#pragma unroll
        for (int i = 0; i < 8; i++) sum += x[i];
      }
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) sum += __shfl_xor_sync(~0u, sum, distance);
      query_sums[group] = sum;
    }
    if (own >= COUNT) return;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      float x[2][8];
#pragma unroll
      for (int n = 0; n < 2; n++) to_floats(x[n], of_key[group][n].bits());
      quantized_cache::Range range(x[0]);
      range.include(x[1]);
      range.template join<1, 2>();
      const quantized_cache::Rounding rounding(range);
      const uint32_t words[2] = {rounding.codes(x[0]), rounding.codes(x[1])};
#pragma unroll
      for (int row = 0; row < 2; row++) {
        if (own != key_place(row)) continue;
        k[group][0][row] = words[0];
        k[group][1][row] = words[1];
        key_scales[group][row] = rounding.bits();
        uint32_t *to = reinterpret_cast<uint32_t *>(key);
        to[8 * group + t] = words[0];
        to[8 * group + 4 + t] = words[1];
        if (t == 0) to[DIMENSION / 8 + group] = rounding.bits();
      }
    }
  }

  __device__ __forceinline__ float2 scores() const {
    float2 scores = make_float2(0, 0);
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      float of_ones[4] = {}, of_sixteens[4] = {};
#pragma unroll
      for (int n = 0; n < 2; n++) {
        uint32_t ones[2][2], sixteens[2][2];  // [row][pair]
#pragma unroll
        for (int row = 0; row < 2; row++) split_codes(ones[row], sixteens[row], k[group][n][row]);
        const uint32_t *x = q[group][n];
        multiply_add_rows(of_ones, of_sixteens, ones, sixteens, make_uint4(x[0], x[1], x[2], x[3]));
      }
      const float2 low = __half22float2(quantized::halves(key_scales[group][0]));
      const float2 high = __half22float2(quantized::halves(key_scales[group][1]));
      scores.x += low.x * (of_ones[0] * ONE + of_sixteens[0] * SIXTEENTH) + low.y * query_sums[group];
      scores.y += high.x * (of_ones[2] * ONE + of_sixteens[2] * SIXTEENTH) + high.y * query_sums[group];
    }
    return scores;
  }

  __device__ __forceinline__ void take_value(const __half *own_value, uint8_t *value) {
    if (own >= COUNT) return;
    Elements elements[GROUPS];
    read_until_there([&] {
      bool are_there = true;
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        are_there = elements[group].look(own_value, group, g) && are_there;
      }
      return are_there;
    });
    __syncwarp();
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      float x[8];
      to_floats(x, elements[group].bits());
      quantized_cache::Range range(x);
      range.template join<4, 8, 16>();
      const quantized_cache::Rounding rounding(range);
      const uint32_t codes = rounding.codes(x);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (own != value_place(i)) continue;
        v[group][i] = codes;
        value_scales[group][i] = rounding.bits();
        uint32_t *to = reinterpret_cast<uint32_t *>(value);
        to[8 * group + g] = codes;
        if (g == 0) to[DIMENSION / 8 + group] = rounding.bits();
      }
    }
  }

  __device__ __forceinline__ uint32_t pair(int h, int quad, int j, int i) const {
    const uint32_t first = v[h][2 * i], second = v[h][2 * i + 1];
    const uint32_t bytes = __byte_perm(first, second, j < 2 ? 0x5410 : 0x7632);
    const uint32_t codes = mask_and_set(bytes >> (8 * (j % 2) + 4 * quad), 0x000f000f, quantized::ONES_1024);
    const uint32_t scale = value_scales[h][2 * i], next_scale = value_scales[h][2 * i + 1];
    return quantized::weights(codes, quantized::halves(__byte_perm(scale, next_scale, 0x5410)),
                              quantized::halves(__byte_perm(scale, next_scale, 0x7632)));
  }
  __device__ __forceinline__ static uint32_t dimension(int h, int quad, uint32_t g) {
    return 64 * h + 32 * quad + 4 * g;
  }
};

// Asks for the keys and values of this block's first part.
template <int DIMENSION, int CACHE_BITS>
__device__ __forceinline__ void ask_for_cache(const tandem_gpu_decode &a, const Block &b, uint32_t layer) {
  if (blockIdx.x >= a.heads * a.attention_parts) return;
  constexpr uint32_t BYTES = Positions<DIMENSION, CACHE_BITS>::BYTES;
  const uint32_t length = b.plan->part_length;
  const uint32_t begin = b.plan->part * length, end = min(begin + length, b.position);
  const size_t line = size_t(b.capacity) * BYTES, plane = a.heads * line;
  const uint8_t *keys = b.cache + 2 * layer * plane + b.plan->head * line + begin * BYTES;
#pragma unroll 1
  for (uint32_t at = threadIdx.x * 128; begin < end && at < (end - begin) * BYTES; at += THREADS * 128) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(keys + at));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(keys + plane + at));
  }
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t &>(pair);
}

// This block's share of softmax(scale * q . keys^T) . values: parts of the positions of some heads, each with
// the maximum of its scores and the sum of its weights. What earlier steps have left in the cache is asked
// for before the queries are there.
//
// A warp takes 16 positions at a time to the tensor cores. Of the products of weights and values the weights
// are first operands, in two rows that add up to them as halves cannot.
template <int DIMENSION, bool HAS_PEERS, int CACHE_BITS>
__device__ __forceinline__ void attend(const tandem_gpu_decode &a, const Block &b, uint32_t layer,
                                       uint8_t *set) {
  using Cached = Positions<DIMENSION, CACHE_BITS>;
  constexpr int HALVES = (DIMENSION + 63) / 64;
  constexpr uint32_t COUNT = Cached::COUNT, LAST_WARP = WARPS - 1;
  const uint32_t g = b.lane / 4, t = b.lane % 4;
  float(*sums)[2][DIMENSION] = reinterpret_cast<float(*)[2][DIMENSION]>(b.shared + X_AT);
  static_assert(sizeof(float) * WARPS * 2 * DIMENSION <= Layout<4096>::X_BYTES,
                "the warps' sums lie where x did");
  __shared__ float maxima[WARPS], totals[WARPS];
  const uint32_t position = b.position;
  const uint32_t length = b.plan->part_length;
  const size_t line = size_t(b.capacity) * Cached::BYTES, plane = a.heads * line;
  synchronize();
  // It must be seen what the block has wiped before what it hands over next. The last warp seldom attends.
  if (threadIdx.x == 32 * LAST_WARP) {
    if constexpr (HAS_PEERS) {
      __threadfence_system();
    } else {
      __threadfence();
    }
  }
  uint32_t head = b.plan->head, part = b.plan->part;
  for (uint32_t unit = blockIdx.x; unit < a.heads * a.attention_parts; unit += gridDim.x) {
    const uint32_t begin = part * length, end = min(begin + length, position + 1);
    uint8_t *keys = b.cache + 2 * layer * plane + head * line, *values = keys + plane;
    const __half *query = reinterpret_cast<const __half *>(set) + size_t(head) * DIMENSION;
    const __half *own_key = query + a.heads * DIMENSION, *own_value = own_key + a.heads * DIMENSION;
    const size_t own_at = size_t(position) * Cached::BYTES;

    float maximum = LOWEST, total = 0.0f;
    uint32_t warps = 0;  // that have any positions
    if (begin < end) warps = min(uint32_t(WARPS), (end - begin + COUNT - 1) / COUNT);
    for (uint32_t first = begin + COUNT * b.warp; first < end; first += COUNT * WARPS) {
      Cached positions;
      positions.g = g, positions.t = t;
      positions.own = position < end ? position - first : COUNT;
      positions.load(keys, values, first, min(end, position));
      positions.take_query_and_key(query, own_key, keys + own_at);
      const float2 scores = positions.scores();
      // The scores of the positions whose values the lane has.
      float weights[4], highest = maximum;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        weights[i] = __shfl_sync(~0u, i < 2 ? scores.x : scores.y, 8 * t + 4 * (i % 2)) * (a.scale * LOG2_E);
        if (first + positions.value_place(i) >= end) weights[i] = NO_SCORE;
        highest = fmaxf(highest, weights[i]);
      }
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, distance));
      }
      const float correction = exponential2(maximum - highest);
      maximum = highest;
      total *= correction;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        weights[i] = exponential2(weights[i] - highest);
        total += weights[i];
      }
      uint32_t rows[4] = {};
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const uint32_t pair = pack(weights[2 * i], weights[2 * i + 1]);
        const float2 rounded = __half22float2(reinterpret_cast<const __half2 &>(pair));
        const uint32_t rest = pack(weights[2 * i] - rounded.x, weights[2 * i + 1] - rounded.y);
        rows[2 * i] = g == 0 ? pair : g == 1 ? rest : 0;
      }
      positions.take_value(own_value, values + own_at);
      // Four dimensions at a time. The first two rows have a product, in the lanes of two outputs each.
      const bool is_first = first == begin + COUNT * b.warp;
#pragma unroll
      for (int h = 0; h < HALVES; h++) {
#pragma unroll
        for (int quad = 0; quad < 2; quad++) {
          float products[4][4] = {};
#pragma unroll
          for (int j = 0; j < 4; j++) {
            multiply_add_16x8x16(products[j], rows, positions.pair(h, quad, j, 0),
                                 positions.pair(h, quad, j, 1));
          }
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const uint32_t d = Cached::dimension(h, quad, 2 * t + e);
            if (g >= 2 || !Cached::is_inside(d)) continue;
            float4 *to = reinterpret_cast<float4 *>(&sums[b.warp][g][d]);
            float4 sum = make_float4(products[0][e], products[1][e], products[2][e], products[3][e]);
            if (!is_first) {
              float4 before = *to;
              scale(before, correction);
              add(sum, before);
            }
            *to = sum;
          }
        }
      }
    }
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) total += __shfl_xor_sync(~0u, total, distance);
    if (b.lane == 0) maxima[b.warp] = maximum, totals[b.warp] = total;
    synchronize();
    if (threadIdx.x < DIMENSION) {
      const uint32_t d = threadIdx.x;
      float block_maximum = LOWEST, block_total = 0.0f, block_sum = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) block_maximum = fmaxf(block_maximum, maxima[w]);
#pragma unroll
      for (uint32_t w = 0; w < WARPS; w++) {
        if (w >= warps) break;
        const float weight = exponential2(maxima[w] - block_maximum);
        block_total += weight * totals[w];
        block_sum += weight * (sums[w][0][d] + sums[w][1][d]);
      }
      hand_over(reinterpret_cast<float *>(set + a.attended) + size_t(unit) * DIMENSION + d,
                __float_as_uint(block_sum));
      if (d < 2) {
        hand_over(reinterpret_cast<float *>(set + a.attended_weights) + unit * 2 + d,
                  __float_as_uint(d == 0 ? block_maximum : block_total));
      }
    }
    if (unit + gridDim.x < a.heads * a.attention_parts) synchronize();
    part += gridDim.x;
    while (part >= a.attention_parts) part -= a.attention_parts, head++;
  }
}

// The joined parts of some heads, as the output projection's activations.
template <int DIMENSION, bool HAS_PEERS, int BITS>
__device__ __forceinline__ void read_attended(const tandem_gpu_decode &a, const Block &b, uint32_t depth,
                                              const uint8_t *set, uint32_t first_stage,
                                              uint32_t stage_count) {
  constexpr int TOGETHER = 2,
                PARTS = 4;  // elements that are asked for before the first is used, and parts of each
  constexpr uint32_t QUADS = INPUTS / 4;
  uint2 *x = reinterpret_cast<uint2 *>(b.shared + X_AT);
  const uint32_t inputs = width<DIMENSION, HAS_PEERS>(a), count = stage_count * QUADS;
  const uint32_t first_input = first_stage * INPUTS;
  const uint32_t end_input = first_stage + stage_count > depth ? ~0u : first_input + stage_count * INPUTS;
  // How much each part is of its head: a thread a head, of those that the stages are of.
  float *factors = reinterpret_cast<float *>(b.shared + SUMS_AT);
  for (uint32_t head = THREADS - 1 - threadIdx.x; head < a.heads; head += THREADS) {
    const bool is_needed =
        end_input == ~0u || (head * DIMENSION < end_input && (head + 1) * DIMENSION > first_input);
    if (!is_needed) continue;
    const uint8_t *weights = set + a.attended_weights + head * a.attention_parts * 8;
    float *of_head = factors + head * a.attention_parts, maximum = LOWEST, total = 0.0f;
    for (uint32_t part = 0; part < a.attention_parts; part += PARTS) {
      uint2 weight[PARTS];
      read_until_there([&] {
        bool are_there = true;
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
          weight[p] = make_uint2(__float_as_uint(LOWEST), 0);
          if (part + p < a.attention_parts) weight[p] = look_2(weights + (part + p) * 8);
          are_there = are_there && weight[p].x != EMPTY && weight[p].y != EMPTY;
        }
        return are_there;
      });
      float highest = maximum;
#pragma unroll
      for (int p = 0; p < PARTS; p++) highest = fmaxf(highest, __uint_as_float(weight[p].x));
      total *= exponential2(maximum - highest);
      maximum = highest;
#pragma unroll
      for (int p = 0; p < PARTS; p++) {
        total += exponential2(__uint_as_float(weight[p].x) - highest) * __uint_as_float(weight[p].y);
        if (part + p < a.attention_parts) of_head[part + p] = __uint_as_float(weight[p].x);
      }
    }
    const float scale = 1.0f / total;
    for (uint32_t part = 0; part < a.attention_parts; part++) {
      of_head[part] = exponential2(of_head[part] - maximum) * scale;
    }
  }
  for (uint32_t first = threadIdx.x, base = 0; base < count;
       base += TOGETHER * THREADS, first += TOGETHER * THREADS) {
    float4 joined[TOGETHER];
    uint32_t unit[TOGETHER];
    const uint8_t *sums[TOGETHER];
#pragma unroll
    for (int n = 0; n < TOGETHER; n++) {
      const uint32_t i = min(first + n * THREADS, count - 1);
      // Behind the last head there are zeros among the weights: any number will do.
      const uint32_t input =
          min(stage_of_tile(first_stage + i / QUADS, depth) * INPUTS + i % QUADS * 4, inputs - 4);
      unit[n] = input / DIMENSION * a.attention_parts;
      sums[n] = set + a.attended + (size_t(unit[n]) * DIMENSION + input % DIMENSION) * 4;
      joined[n] = make_float4(0, 0, 0, 0);
    }
    for (uint32_t part = 0; part < a.attention_parts; part += PARTS) {
      uint4 sum[TOGETHER][PARTS];
      read_until_there([&] {
        bool are_there = true;
#pragma unroll
        for (int n = 0; n < TOGETHER; n++) {
#pragma unroll
          for (int p = 0; p < PARTS; p++) {
            sum[n][p] = make_uint4(0, 0, 0, 0);
            if (first + n * THREADS < count && part + p < a.attention_parts) {
              sum[n][p] = look(sums[n] + (part + p) * (DIMENSION * 4));
            }
          }
        }
#pragma unroll
        for (int n = 0; n < TOGETHER; n++) {
#pragma unroll
          for (int p = 0; p < PARTS; p++) are_there = are_there && is_there(sum[n][p]);
        }
        return are_there;
      });
      if (base == 0 && part == 0) synchronize();
#pragma unroll
      for (int n = 0; n < TOGETHER; n++) {
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
          if (part + p >= a.attention_parts) break;
          float4 more = floats(sum[n][p]);
          scale(more, factors[unit[n] + part + p]);
          add(joined[n], more);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < TOGETHER; n++) {
      if (first + n * THREADS >= count) break;
      const __half2 low = __floats2half2_rn(joined[n].x, joined[n].y);
      const __half2 high = __floats2half2_rn(joined[n].z, joined[n].w);
      x[first + n * THREADS] =
          make_uint2(reinterpret_cast<const uint32_t &>(low), reinterpret_cast<const uint32_t &>(high));
      if constexpr (BITS != 16) put_group_sum<16>(b, (first + n * THREADS) / 16, sum_of(low) + sum_of(high));
    }
  }
}

template <int BITS>
__device__ __forceinline__ void read_neurons(const tandem_gpu_decode &a, const Block &b, uint32_t depth,
                                             const uint8_t *neurons, uint32_t first_stage,
                                             uint32_t stage_count) {
  constexpr int TOGETHER = 4;
  constexpr uint32_t EIGHTHS = INPUTS / 8;
  uint4 *x = reinterpret_cast<uint4 *>(b.shared + X_AT);
  const uint32_t count = stage_count * EIGHTHS;
  for (uint32_t first = threadIdx.x; first < count; first += TOGETHER * THREADS) {
    uint4 values[TOGETHER];
    read_until_there([&] {
      bool are_there = true;
#pragma unroll
      for (int n = 0; n < TOGETHER; n++) {
        const uint32_t i = first + n * THREADS;
        const uint32_t input = stage_of_tile(first_stage + i / EIGHTHS, depth) * INPUTS + i % EIGHTHS * 8;
        values[n] = make_uint4(0, 0, 0, 0);
        if (i < count && input < a.neuron_count) values[n] = look(neurons + input * 2);
      }
#pragma unroll
      for (int n = 0; n < TOGETHER; n++) are_there = are_there && is_there(values[n]);
      return are_there;
    });
#pragma unroll
    for (int n = 0; n < TOGETHER; n++) {
      if (first + n * THREADS >= count) break;
      x[first + n * THREADS] = values[n];
      if constexpr (BITS != 16) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) sum += sum_of(reinterpret_cast<const __half2 *>(&values[n])[i]);
        put_group_sum<8>(b, (first + n * THREADS) / 8, sum);
      }
    }
  }
}

// Wipes what this block has written of a set; of what all ranks have written into `peer_set`, its share. A
// fence must follow before the layer behind the next hands anything over.
template <int DIMENSION, bool HAS_PEERS>
__device__ __forceinline__ void wipe_own(const tandem_gpu_decode &a, const Plan &plan,
                                         const tandem_gpu_decode_rank *rank, uint8_t *set,
                                         uint8_t *peer_set) {
  // Nothing is gained by unrolled loops here: each runs once at most.
  auto wipe_words = [&](uint8_t *from, uint32_t begin, uint32_t end) {
#pragma unroll 1
    for (uint32_t i = begin + threadIdx.x; i < end; i += THREADS) wipe(from + 4 * i);
  };
  auto wipe_outputs = [&](uint8_t *from, const Share &share, uint32_t outputs) {
    wipe_words(from, 8 * share.tile, min(8 * share.end_tile, outputs / 2));
  };
  auto wipe_sums = [&](uint8_t *from, const Share &share) {
    uint32_t slot = share.slot;
#pragma unroll 1
    for (uint32_t tile = share.tile; tile < share.end_tile; tile++, slot = 0) {
      wipe_words(from + size_t(slot) * a.hidden * 4, tile * 64, min(tile * 64 + 64, a.hidden));
    }
  };
  wipe_outputs(set, plan.shares[Plan::QUERIES_KEYS_VALUES], 3 * width<DIMENSION, HAS_PEERS>(a));
  wipe_outputs(set + a.neurons, plan.shares[Plan::FC1], a.neuron_count);
  if constexpr (HAS_PEERS) {
    const uint32_t quads = rank->peer_set_byte_count / 16, end = quads * (blockIdx.x + 1) / gridDim.x;
    for (uint32_t i = quads * blockIdx.x / gridDim.x + threadIdx.x; i < end; i += THREADS) {
      wipe_from_peers(peer_set + 16 * i);
    }
  } else {
    wipe_sums(set + a.output_sums, plan.shares[Plan::OUTPUT]);
    wipe_sums(set + a.fc2_sums, plan.shares[Plan::FC2]);
  }
#pragma unroll 1
  for (uint32_t unit = blockIdx.x; unit < a.heads * a.attention_parts; unit += gridDim.x) {
    wipe_words(set + a.attended, unit * DIMENSION, (unit + 1) * DIMENSION);
    wipe_words(set + a.attended_weights, unit * 2, unit * 2 + 2);
  }
}

// MARK: The step

// `rank` is given where there are several.
template <int DIMENSION, int MOST_HIDDEN, bool HAS_PEERS, int BITS, int CACHE_BITS>
__device__ __forceinline__ void step(const tandem_gpu_decode &a, const tandem_gpu_decode_rank *rank) {
  constexpr int QUADS = (MOST_HIDDEN / 4 + THREADS - 1) / THREADS;  // of the residual stream, a thread's
  extern __shared__ uint8_t dynamic[];
  Block b;
  // Aligned, as the swizzle is one of addresses.
  const uint32_t base = (ring::shared_address(dynamic) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  const uint32_t barriers = base + BARRIERS_AT;
  b.shared = dynamic + (base - ring::shared_address(dynamic));
  b.zero = base + ZEROS_AT;
  b.x = base + X_AT;
  b.x_bytes = Layout<MOST_HIDDEN>::X_BYTES;
  b.stages = b.shared + Layout<MOST_HIDDEN>::RING_AT;
  b.ring = base + Layout<MOST_HIDDEN>::RING_AT;
  b.ring_bytes = Layout<MOST_HIDDEN>::RING_BYTES;
  b.warp = threadIdx.x / 32;
  b.lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    const uint32_t units = unit_count<BITS>(b);
    for (uint32_t i = 0; i < 2 * MOST_STAGES; i++) {
      // A unit is full when its copy is done, and empty when its stages are.
      const bool is_emptied = i >= units && i < 2 * units;
      ring::initialize_barrier(barriers + 8 * i, is_emptied ? Stage<BITS>::UNIT : 1);
    }
    ring::publish_barriers();
  }
  if (threadIdx.x < ZEROS_BYTES / 4) reinterpret_cast<uint32_t *>(b.shared + ZEROS_AT)[threadIdx.x] = 0;
  __shared__ uint64_t plan_words[(sizeof(Plan) + 7) / 8];  // which has a constructor of its own
  Plan &plan = *reinterpret_cast<Plan *>(plan_words);
  b.plan = &plan;
  make_plan<DIMENSION, HAS_PEERS>(plan, a, rank);
  __syncthreads();
  if (b.warp == WARPS) {
    feed<DIMENSION, HAS_PEERS, BITS>(a, b, barriers);
    return;
  }

  Turns<BITS> turns(b, barriers);
  const uint32_t qkv_outputs = 3 * width<DIMENSION, HAS_PEERS>(a);
  const auto slots_behind = [&](const tandem_gpu_decode_tile *tiles) {
    if constexpr (HAS_PEERS) {
      return GroupSlots{*rank, tiles};
    } else {
      return OwnSlots{a, tiles};
    }
  };
  const auto output_slots = slots_behind(plan.tiles), fc2_slots = slots_behind(plan.tiles + a.hidden / 64);
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
  const tandem_gpu_row *row = as<const tandem_gpu_row>(a.row);
  b.position = row->position;
  b.capacity = row->capacity;
  b.cache = as<uint8_t>(row->cache);
  if (threadIdx.x == 0) plan.part_length = (b.position + a.attention_parts) / a.attention_parts;
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
    normalize<QUADS, BITS != 16>(a, b, residual, layer.attention_norm_weight, layer.attention_norm_bias, sums,
                                 fc2_slots);
    ask_for_cache<DIMENSION, CACHE_BITS>(a, b, l);
    linear<BITS>(a, b, turns, plan.shares[Plan::QUERIES_KEYS_VALUES], qkv_outputs, layer.qkv_bias,
                 [&](uint32_t output, float2 sum) {
                   const __half2 pair = __floats2half2_rn(sum.x, sum.y);
                   hand_over(set + output * 2, reinterpret_cast<const uint32_t &>(pair));
                 });
    ask_for(layer.output_bias, a.hidden);
    ask_for(layer.mlp_norm_weight, a.hidden);
    ask_for(layer.mlp_norm_bias, a.hidden);
    ask_for(layer.fc1_bias, a.neuron_count);
    attend<DIMENSION, HAS_PEERS, CACHE_BITS>(a, b, l, set);
    const Share &output = plan.shares[Plan::OUTPUT], &fc2 = plan.shares[Plan::FC2];
    transposed<BITS>(a, b, turns, output, width<DIMENSION, HAS_PEERS>(a), layer.output_bias, output_sums(),
                     output_slots, [&](uint32_t first_stage, uint32_t count) {
                       read_attended<DIMENSION, HAS_PEERS, BITS>(a, b, output.depth, set, first_stage, count);
                     });
    normalize<QUADS, BITS != 16>(a, b, residual, layer.mlp_norm_weight, layer.mlp_norm_bias, output_sums(),
                                 output_slots);
    linear<BITS>(a, b, turns, plan.shares[Plan::FC1], a.neuron_count, layer.fc1_bias,
                 [&](uint32_t output, float2 sum) {
                   const __half2 pair =
                       __floats2half2_rn(activate(sum.x, a.activation), activate(sum.y, a.activation));
                   hand_over(set + a.neurons + output * 2, reinterpret_cast<const uint32_t &>(pair));
                 });
    // While the neurons of the other blocks are on their way.
    if (previous) {
      wipe_own<DIMENSION, HAS_PEERS>(a, plan, rank, previous, peer_set(l - 1));
    }
    ask_for(layer.fc2_bias, a.hidden);
    if (l + 1 < a.layer_count) {
      ask_for(vectors[l + 1].attention_norm_weight, a.hidden);
      ask_for(vectors[l + 1].attention_norm_bias, a.hidden);
      ask_for(vectors[l + 1].qkv_bias, qkv_outputs);
    }
    transposed<BITS>(a, b, turns, fc2, a.neuron_count, layer.fc2_bias, fc2_sums(), fc2_slots,
                     [&](uint32_t first_stage, uint32_t count) {
                       read_neurons<BITS>(a, b, fc2.depth, set + a.neurons, first_stage, count);
                     });
    sums = fc2_sums();
  }
  normalize<QUADS, false>(a, b, residual, a.final_norm_weight, a.final_norm_bias, sums, fc2_slots);
  uint32_t *counters = as<uint32_t>(a.counters);
  if (threadIdx.x == 0) atomicAdd(counters, 1);
  const auto store_logits = [&](uint32_t output, float2 sum) {
    if (output + 1 < a.vocabulary) {
      as<float2>(a.logits)[output / 2] = sum;
    } else {
      as<float>(a.logits)[output] = sum.x;
    }
  };
  if constexpr (BITS == 16) {
    linear<16>(a, b, turns, plan.shares[Plan::LOGITS], a.vocabulary, 0, store_logits);
  } else {
    Turns<16> logits_turns(b, barriers + 16 * unit_count<BITS>(b));
    linear<16>(a, b, logits_turns, plan.shares[Plan::LOGITS], a.vocabulary, 0, store_logits);
  }

  // The last layer's set is wiped when every block has read it, and the last block to come here leaves the
  // counters as they were found.
  if (threadIdx.x == 0) {
    read_until_there([&] { return *reinterpret_cast<volatile uint32_t *>(counters) >= gridDim.x; });
    __threadfence();
  }
  synchronize();
  wipe_own<DIMENSION, HAS_PEERS>(a, plan, rank, set, peer_set(a.layer_count - 1));
  if (threadIdx.x == 0 && atomicAdd(counters + 1, 1) == gridDim.x - 1) counters[0] = counters[1] = 0;
}

}  // namespace decode

// Weights of `bits` bits, a cache of `cache_bits`.
#define DECODE(name, bits, cache_bits, dimension, most_hidden)                   \
  extern "C" __global__ void __launch_bounds__(decode::THREADS + 32, 1)          \
      tandem_kernel_decode_##name(const __grid_constant__ tandem_gpu_decode a) { \
    launch_successors();                                                         \
    decode::step<dimension, most_hidden, false, bits, cache_bits>(a, nullptr);   \
  }
#define DECODE_SIZES(name, bits, cache_bits)      \
  DECODE(name##_64, bits, cache_bits, 64, 4096)   \
  DECODE(name##_128, bits, cache_bits, 128, 4096) \
  DECODE(name##_128_large, bits, cache_bits, 128, TANDEM_GPU_DECODE_HIDDEN)

#define DECODE_RANKS(name, dimension, most_hidden)                                          \
  extern "C" __global__ void __launch_bounds__(decode::THREADS + 32, 1)                     \
      tandem_kernel_decode_ranks_##name(const __grid_constant__ tandem_gpu_decode_rank a) { \
    launch_successors();                                                                    \
    decode::step<dimension, most_hidden, true, 16, 16>(a.step, &a);                         \
  }

DECODE(16_bits_80, 16, 16, 80, 4096)
DECODE_SIZES(16_bits, 16, 16)
DECODE_SIZES(8_bits, 8, 16)
DECODE_SIZES(4_bits, 4, 16)
DECODE_SIZES(16_bits_cache_4_bits, 16, 4)
DECODE_SIZES(8_bits_cache_4_bits, 8, 4)
DECODE_SIZES(4_bits_cache_4_bits, 4, 4)

DECODE_RANKS(64, 64, 4096)
DECODE_RANKS(80, 80, 4096)
DECODE_RANKS(128, 128, 4096)
DECODE_RANKS(128_large, 128, TANDEM_GPU_DECODE_HIDDEN)

#endif
