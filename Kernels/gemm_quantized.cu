#include "ManyRows.cuh"
#include "Quantized.cuh"

// y = activation(bias + x . W^T), or residual += bias + x . W^T, of many rows, for weights in 4 or 8 bits in
// either order.
//
// The weights are the first operand, 16 outputs x 16 inputs, and x the second one, 16 inputs x 8 rows. A warp
// has outputs of its own, of all rows of the block: it reads their tiles from global memory into registers,
// one group ahead, and expands each once. Slices of x, the inputs of one group, are on their way to shared
// memory, as in `gemm`, from where every warp reads all of them: a 16 x 128 warp's tile takes as much from
// there as two quarters of 64 x 64 would.
//
// Shared memory consists of lines of 64 numbers, 128 bytes: a slice's inputs of one row. Lane (g, t) reads
// chunk t or t + 4 of 16 bytes of line g, so that 8 lanes read 4 chunks of 2 lines; odd lines have their
// halves exchanged, and no bank is met twice.
//
// The tiles are a large one of 128 x 128 and a small one of 64 x 64 for filling the multiprocessors; the host
// chooses as for `gemm`.
//
// Grid: (ceil(rows / tile rows), ceil(outputs / tile outputs)). Block: 128. Dynamic shared memory: below.

// tandem_kernel_gemm_quantized_*_large
#define QUANTIZED_LARGE_ROWS 128
#define QUANTIZED_LARGE_OUTPUTS 128
#define QUANTIZED_LARGE_SHARED_BYTES 49152

// tandem_kernel_gemm_quantized_*_small
#define QUANTIZED_SMALL_ROWS 64
#define QUANTIZED_SMALL_OUTPUTS 64
#define QUANTIZED_SMALL_SHARED_BYTES 32768

namespace gemm_quantized_kernel {

constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int X_LINE_BYTES = 2 * quantized::GROUP_INPUTS;
constexpr int PASS_ROWS = 64;  // rows whose sums are laid out at a time

template <int ROWS_, int TILES_, int STAGES_, int BLOCKS_>
struct Shape {
  static constexpr int ROWS = ROWS_, TILES = TILES_, STAGES = STAGES_;
  static constexpr int BLOCKS = BLOCKS_;  // that a multiprocessor has room for
  static constexpr int OWN_OUTPUTS = TILES * quantized::TILE_OUTPUTS, OUTPUTS = WARPS * OWN_OUTPUTS;
  static constexpr int STAGE_BYTES = ROWS * X_LINE_BYTES, SHARED_BYTES = STAGES * STAGE_BYTES;
  static constexpr int SUM_STRIDE = OUTPUTS + 4;  // of a row's sums: lanes (g, t) meet no bank twice
  static constexpr int STEP =
      4 / TILES;  // groups of 8 rows at a time: four sums must not wait for each other
  static_assert(PASS_ROWS * SUM_STRIDE * 4 <= SHARED_BYTES, "the sums take the slices' place");
};

template <int BITS, typename S>
__device__ __forceinline__ void gemm_quantized(const tandem_gpu_gemm_quantized &a) {
  extern __shared__ __align__(128) unsigned char lines[];
  const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const quantized::Tiles<BITS> tiles(a, a.by_inputs);
  const int group_count = tiles.group_count(a.inputs);
  const uint32_t first_row = blockIdx.x * S::ROWS, first_output = blockIdx.y * S::OUTPUTS;
  wait_for_predecessors();
  launch_successors();

  // A thread copies one chunk of every 16th line. Rows behind the last one repeat it.
  const uint32_t line = threadIdx.x / 8, chunk = threadIdx.x % 8;
  const uint32_t to =
      uint32_t(__cvta_generic_to_shared(lines)) + line * X_LINE_BYTES + (chunk ^ line % 2 * 4) * 16;
  auto copy_slice = [&](int index, uint32_t stage) {
    quantized::Group group = {0, 0, 0};
    if (index < group_count) group = tiles.group(index);
    const bool is_inside = 8 * chunk < group.count;
    const __half *x = as<const __half>(a.x) + group.input + (is_inside ? 8 * chunk : 0);
#pragma unroll
    for (int i = 0; i < S::ROWS / 16; i++) {
      const uint32_t row = min(first_row + line + 16 * i, a.rows - 1);
      copy_chunk(to + stage + 16 * i * X_LINE_BYTES, x + size_t(row) * a.x_stride, is_inside);
    }
    end_of_copies();
  };

  using Parts = quantized::Part<BITS>[S::TILES];
  auto read_weights = [&](Parts &parts, int index) {
    quantized::Group group = {0, 0, 0};
    if (index < group_count) group = tiles.group(index);
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
      // Outputs behind the last one read the last one's weights, and their sums are thrown away.
      const uint32_t tile =
          min(first_output / quantized::TILE_OUTPUTS + warp * S::TILES + n, tiles.blocks - 1);
      parts[n].read(tiles.tile(tile, group) + quantized::Part<BITS>::place(g, t), group.count, g, t);
    }
    return group.count;
  };

  float sum[S::TILES][S::ROWS / 8][4] = {};
  auto multiply = [&](const Parts &parts, uint32_t stage, int half) {
    uint32_t first[S::TILES][4], second[S::TILES][4];
#pragma unroll
    for (int n = 0; n < S::TILES; n++) quantized::expand(first[n], second[n], parts[n], half);
    const unsigned char *at = lines + stage + g * X_LINE_BYTES + ((4 * half + t) ^ g % 2 * 4) * 16;
#pragma unroll
    for (int r = 0; r < S::ROWS / 8; r += S::STEP) {
      uint4 rows[S::STEP];
#pragma unroll
      for (int i = 0; i < S::STEP; i++) {
        rows[i] = *reinterpret_cast<const uint4 *>(at + 8 * (r + i) * X_LINE_BYTES);
      }
#pragma unroll
      for (int i = 0; i < S::STEP; i++) {
#pragma unroll
        for (int n = 0; n < S::TILES; n++)
          multiply_add_16x8x16(sum[n][r + i], first[n], rows[i].x, rows[i].y);
      }
#pragma unroll
      for (int i = 0; i < S::STEP; i++) {
#pragma unroll
        for (int n = 0; n < S::TILES; n++)
          multiply_add_16x8x16(sum[n][r + i], second[n], rows[i].z, rows[i].w);
      }
    }
  };

  Parts parts = {}, next = {};
#pragma unroll
  for (int s = 0; s < S::STAGES - 1; s++) copy_slice(s, s * S::STAGE_BYTES);
  uint32_t count = read_weights(parts, 0);
  uint32_t stage = 0, free_stage = S::SHARED_BYTES - S::STAGE_BYTES;
  for (int slice = 0; slice < group_count; slice++) {
    const uint32_t next_count = read_weights(next, slice + 1);
    // From here on the slice is there for every warp, and every warp is through with the one before.
    wait_for_copies<S::STAGES - 2>();
    __syncthreads();
    multiply(parts, stage, 0);
    copy_slice(slice + S::STAGES - 1, free_stage);
    if (count > 32) multiply(parts, stage, 1);
#pragma unroll
    for (int n = 0; n < S::TILES; n++) parts[n] = next[n];
    count = next_count;
    free_stage = stage;
    stage = stage + S::STAGE_BYTES == S::SHARED_BYTES ? 0 : stage + S::STAGE_BYTES;
  }

  wait_for_copies<0>();  // those of zeros behind the last slice
  float *sums = reinterpret_cast<float *>(lines);
#pragma unroll
  for (int pass = 0; pass < S::ROWS / PASS_ROWS; pass++) {
    __syncthreads();
#pragma unroll
    for (int n = 0; n < S::TILES; n++) {
#pragma unroll
      for (int r = 0; r < PASS_ROWS / 8; r++) {
        const float *from = sum[n][pass * PASS_ROWS / 8 + r];
        float *at =
            sums + (8 * r + 2 * t) * S::SUM_STRIDE + warp * S::OWN_OUTPUTS + n * quantized::TILE_OUTPUTS + g;
        at[0] = from[0];
        at[S::SUM_STRIDE] = from[1];
        at[8] = from[2];
        at[S::SUM_STRIDE + 8] = from[3];
      }
    }
    __syncthreads();
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < PASS_ROWS * S::OUTPUTS / 4; i += THREADS) {
      const uint32_t r = i / (S::OUTPUTS / 4), o = i % (S::OUTPUTS / 4) * 4;
      const uint32_t row = first_row + pass * PASS_ROWS + r, output = first_output + o;
      if (row >= a.rows || output >= a.outputs) continue;
      many_rows::finish(a, *reinterpret_cast<const float4 *>(sums + r * S::SUM_STRIDE + o), row, output);
    }
  }
}

using Large = Shape<128, 2, 3, 2>;
using Small = Shape<64, 1, 4, 4>;
static_assert(Large::ROWS == QUANTIZED_LARGE_ROWS && Large::OUTPUTS == QUANTIZED_LARGE_OUTPUTS,
              "as launched");
static_assert(Small::ROWS == QUANTIZED_SMALL_ROWS && Small::OUTPUTS == QUANTIZED_SMALL_OUTPUTS,
              "as launched");
static_assert(Large::SHARED_BYTES == QUANTIZED_LARGE_SHARED_BYTES, "as launched");
static_assert(Small::SHARED_BYTES == QUANTIZED_SMALL_SHARED_BYTES, "as launched");

}  // namespace gemm_quantized_kernel

#define GEMM_QUANTIZED(name, bits, Tile)                                                         \
  extern "C" __global__ void __launch_bounds__(gemm_quantized_kernel::THREADS,                   \
                                               gemm_quantized_kernel::Tile::BLOCKS)              \
      tandem_kernel_gemm_quantized_##name(const __grid_constant__ tandem_gpu_gemm_quantized a) { \
    gemm_quantized_kernel::gemm_quantized<bits, gemm_quantized_kernel::Tile>(a);                 \
  }

GEMM_QUANTIZED(4_large, 4, Large)
GEMM_QUANTIZED(4_small, 4, Small)
GEMM_QUANTIZED(8_large, 8, Large)
GEMM_QUANTIZED(8_small, 8, Small)
