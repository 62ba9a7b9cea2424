#include "ManyRows.cuh"

// y = activation(bias + x . W^T), or residual += bias + x . W^T, of many rows, bound by the tensor cores.
//
// A block sums a tile of rows x outputs, 64 inputs at a time. Copies of the slices to come are always on
// their way to shared memory while the warps multiply the present one. A warp sums 64 rows x 64 outputs, in
// 128 of a lane's 255 registers: for each product of 64 x outputs x 16 shared memory must deliver (64 +
// outputs) x 16 numbers, and with fewer outputs the tensor cores would wait for it. The warps of a block can
// also share a tile by halving each slice; their sums are added at the end, in a fixed order.
//
// Shared memory consists of lines of 64 numbers, 128 bytes: a line has the slice's inputs of one row of x, or
// of one output of W; or, where W is transposed, 64 outputs of one input. The 8 chunks of 16 bytes of line l
// are in the order c ^ (l % 8), so that 8 lanes that write one line, or read the same chunk of 8 lines, meet
// no bank twice.
//
// There are two tiles, a large one for speed and a small one for filling the multiprocessors. On an H200
// (132) at 512 rows, in TFLOP/s, large and small: 16384 x 4096 377 and 325, 12288 x 4096 389 and 358,
// 6144 x 2048 244 and 285; 4096 x 4096 transposed 254 and 322, 4096 x 16384 transposed 318 and 372.
// The host takes the small one where large ones would be mostly padding or are few:
//   5 * 64 * ceil(rows / 64) < 4 * 128 * ceil(rows / 128), or
//   2 * ceil(rows / 128) * ceil(outputs / 128) <= 3 * multiprocessors.
//
// Grid: (ceil(rows / tile rows), ceil(outputs / tile outputs)), so that blocks that read the same weights run
// at the same time. Block and dynamic shared memory: below. Inputs, outputs and strides are multiples of 8,
// and pointers of 16 bytes; for all else there is `tandem_kernel_gemm_any`.

// tandem_kernel_gemm_large, tandem_kernel_gemm_large_transposed
#define LARGE_ROWS 128
#define LARGE_OUTPUTS 128
#define LARGE_THREADS 128
#define LARGE_SHARED_BYTES 98304

// tandem_kernel_gemm_small, tandem_kernel_gemm_small_transposed
#define SMALL_ROWS 64
#define SMALL_OUTPUTS 128
#define SMALL_THREADS 128
#define SMALL_SHARED_BYTES 98304

#define LINE 64  // numbers of a line, and so inputs of a slice
#define LINE_BYTES (2 * LINE)
#define WARP_ROWS 64
#define WARP_OUTPUTS 64

namespace {

/// A block's tile, the warps that share it, and the slices of inputs that are there or on their way.
template <int ROW_WARPS_, int OUTPUT_WARPS, int INPUT_WARPS, int STAGES_>
struct Shape {
  static constexpr int ROW_WARPS = ROW_WARPS_, TILE_WARPS = ROW_WARPS * OUTPUT_WARPS, PARTS = INPUT_WARPS;
  static constexpr int ROWS = ROW_WARPS * WARP_ROWS, OUTPUTS = OUTPUT_WARPS * WARP_OUTPUTS;
  static constexpr int THREADS = 32 * TILE_WARPS * PARTS;
  static constexpr int STEPS = LINE / 16 / PARTS;  // products of 16 inputs that a warp makes of a slice
  static constexpr int STAGES = STAGES_, STAGE_BYTES = (ROWS + OUTPUTS) * LINE_BYTES;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  // One row's sums by all parts, as they are laid out at the end; 8 more keep the rows from the same banks.
  static constexpr int SUM_STRIDE = PARTS * OUTPUTS + 8;
  static_assert(ROWS * SUM_STRIDE * 4 <= SHARED_BYTES, "the sums take the slices' place");
};

/// The way of a matrix's tile into shared memory: a thread copies one chunk of every (THREADS / 8)-th line.
///
/// Lines outside the matrix repeat the last one, as nothing is stored of what they yield; inputs outside are
/// zeros.
template <int LINES, int THREADS, bool LINE_IS_INPUT>
struct Copier {
  static constexpr int PASS = THREADS / 8, COUNT = LINES / PASS;
  static_assert(LINES % PASS == 0 && LINE % PASS == 0, "whole passes only");
  const __half *slice;
  uint32_t offsets[COUNT];  // from there, in elements; an address each would take twice the registers
  uint32_t slice_stride, to;

  __device__ __forceinline__ Copier(const __half *matrix, uint32_t stride, uint32_t first, uint32_t end) {
    const uint32_t line = threadIdx.x / 8, chunk = threadIdx.x % 8;
    slice = matrix;
    slice_stride = LINE_IS_INPUT ? LINE * stride : LINE;
    to = line * LINE_BYTES + (chunk ^ line % 8) * 16;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const uint32_t l = line + i * PASS;
      offsets[i] = LINE_IS_INPUT ? l % LINE * stride + min(first + l / LINE * LINE + chunk * 8, end - 8)
                                 : min(first + l, end - 1) * stride + chunk * 8;
    }
  }

  /// The present slice, where `inputs_left` inputs are left (none: zeros); then moves to the next one.
  __device__ __forceinline__ void copy(uint32_t lines, int inputs_left) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int input = LINE_IS_INPUT ? threadIdx.x / 8 + i * PASS % LINE : threadIdx.x % 8 * 8;
      copy_chunk(lines + to + i * PASS * LINE_BYTES, slice + offsets[i], input < inputs_left);
    }
    slice += slice_stride;
  }
};

/// The operands of a warp's products, from a slice in shared memory: `multiply_add_16x8x16` has their layout.
template <typename S, bool TRANSPOSED>
struct FragmentReader {
  uint32_t x_line, x_chunk, w_line, w_chunk;  // the lane's, at the warp's first rows, outputs and inputs

  __device__ __forceinline__ FragmentReader(uint32_t row, uint32_t output, uint32_t first_step) {
    const uint32_t lane = threadIdx.x % 32, turn = lane % 8, step_chunk = 2 * first_step;
    x_line = (row + lane % 16) * LINE_BYTES;
    x_chunk = (lane / 16 ^ turn ^ step_chunk) * 16;
    if (TRANSPOSED) {
      w_line = (S::ROWS + output + first_step * 16 + lane % 16) * LINE_BYTES;
      w_chunk = (lane / 16 ^ turn) * 16;
    } else {
      w_line = (S::ROWS + output + lane / 16 * 8 + lane % 8) * LINE_BYTES;
      w_chunk = (lane / 8 % 2 ^ turn ^ step_chunk) * 16;
    }
  }

  __device__ __forceinline__ void read_x(uint32_t x[WARP_ROWS / 16][4], uint32_t stage, int step) const {
#pragma unroll
    for (int i = 0; i < WARP_ROWS / 16; i++) {
      load_matrices(x[i], stage + x_line + i * 16 * LINE_BYTES + (x_chunk ^ step * 32));
    }
  }

  __device__ __forceinline__ void read_w(uint32_t w[WARP_OUTPUTS / 16][4], uint32_t stage, int step) const {
#pragma unroll
    for (int j = 0; j < WARP_OUTPUTS / 16; j++) {
      if (TRANSPOSED) {
        load_matrices_transposed(w[j], stage + w_line + step * 16 * LINE_BYTES + (w_chunk ^ j * 32));
      } else {
        load_matrices(w[j], stage + w_line + j * 16 * LINE_BYTES + (w_chunk ^ step * 32));
      }
    }
  }
};

using Sums = float[WARP_ROWS / 16][WARP_OUTPUTS / 8][4];

/// sum += x . w for 16 inputs of the slice in `stage`.
template <typename Reader>
__device__ __forceinline__ void multiply(Sums &sum, const Reader &reader, uint32_t stage, int step) {
  uint32_t x[WARP_ROWS / 16][4], w[WARP_OUTPUTS / 16][4];
  reader.read_x(x, stage, step);
  reader.read_w(w, stage, step);
#pragma unroll
  for (int j = 0; j < WARP_OUTPUTS / 8; j++) {
#pragma unroll
    for (int i = 0; i < WARP_ROWS / 16; i++) {
      multiply_add_16x8x16(sum[i][j], x[i], w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
    }
  }
}

/// Lays the warp's sums out by rows in shared memory: registers would go to global memory in crumbs.
template <typename S>
__device__ __forceinline__ void lay_out(float *sums, const Sums &sum) {
  const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
    for (int j = 0; j < WARP_OUTPUTS / 8; j++) {
      float *at = sums + (i * 16 + g) * S::SUM_STRIDE + j * 8 + 2 * t;
      *reinterpret_cast<float2 *>(at) = make_float2(sum[i][j][0], sum[i][j][1]);
      *reinterpret_cast<float2 *>(at + 8 * S::SUM_STRIDE) = make_float2(sum[i][j][2], sum[i][j][3]);
    }
  }
}

/// The block's tile from its laid out sums: those of the parts of the inputs are added in order.
template <typename S>
__device__ __forceinline__ void store(const tandem_gpu_gemm &a, const float *sums) {
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < S::ROWS * S::OUTPUTS / 4; i += S::THREADS) {
    const uint32_t r = i / (S::OUTPUTS / 4), o = i % (S::OUTPUTS / 4) * 4;
    const uint32_t row = blockIdx.x * S::ROWS + r, output = blockIdx.y * S::OUTPUTS + o;
    if (row >= a.rows || output >= a.outputs) continue;
    const float *at = sums + r * S::SUM_STRIDE + o;
    float4 sum = *reinterpret_cast<const float4 *>(at);
#pragma unroll
    for (int p = 1; p < S::PARTS; p++)
      many_rows::add(sum, *reinterpret_cast<const float4 *>(at + p * S::OUTPUTS));
    many_rows::finish(a, sum, row, output);
  }
}

template <typename S, bool TRANSPOSED>
__device__ __forceinline__ void gemm(const tandem_gpu_gemm &a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t first_stage = uint32_t(__cvta_generic_to_shared(shared));
  const uint32_t last_stage = first_stage + (S::STAGES - 1) * S::STAGE_BYTES;
  const uint32_t warp = threadIdx.x / 32, part = warp / S::TILE_WARPS;
  const uint32_t row = warp % S::ROW_WARPS * WARP_ROWS;
  const uint32_t output = warp % S::TILE_WARPS / S::ROW_WARPS * WARP_OUTPUTS;
  wait_for_predecessors();
  launch_successors();

  const int inputs = a.inputs, slice_count = (inputs + LINE - 1) / LINE;
  Copier<S::ROWS, S::THREADS, false> x_copier(as<const __half>(a.x), a.x_stride, blockIdx.x * S::ROWS,
                                              a.rows);
  Copier<S::OUTPUTS, S::THREADS, TRANSPOSED> w_copier(
      as<const __half>(a.weights), TRANSPOSED ? a.outputs : a.inputs, blockIdx.y * S::OUTPUTS, a.outputs);
  // Behind the last slice too: a branch would keep the compiler from mixing these with the products (4-10%).
  auto copy_slice = [&](int slice, uint32_t stage) {
    x_copier.copy(stage, inputs - slice * LINE);
    w_copier.copy(stage + S::ROWS * LINE_BYTES, inputs - slice * LINE);
    end_of_copies();
  };
#pragma unroll
  for (int s = 0; s < S::STAGES - 1; s++) copy_slice(s, first_stage + s * S::STAGE_BYTES);

  const FragmentReader<S, TRANSPOSED> reader(row, output, part * S::STEPS);
  Sums sum = {};
  uint32_t stage = first_stage, free_stage = last_stage;
  for (int slice = 0; slice < slice_count; slice++) {
    // From here on the slice is there for every warp, and every warp is through with the one before.
    wait_for_copies<S::STAGES - 2>();
    __syncthreads();
    multiply(sum, reader, stage, 0);
    // Not in front of the first product, whose operands would come late: the small tile would be 6% slower.
    copy_slice(slice + S::STAGES - 1, free_stage);
#pragma unroll
    for (int step = 1; step < S::STEPS; step++) multiply(sum, reader, stage, step);
    free_stage = stage;
    stage = stage == last_stage ? first_stage : stage + S::STAGE_BYTES;
  }

  wait_for_copies<0>();  // those of zeros behind the last slice
  __syncthreads();
  float *sums = reinterpret_cast<float *>(shared);
  lay_out<S>(sums + row * S::SUM_STRIDE + part * S::OUTPUTS + output, sum);
  __syncthreads();
  store<S>(a, sums);
}

// Two blocks of either run on a multiprocessor: one's beginning and end pass behind the other's products.
using Large = Shape<2, 2, 1, 3>;
using Small = Shape<1, 2, 2, 4>;
static_assert(Large::ROWS == LARGE_ROWS && Large::OUTPUTS == LARGE_OUTPUTS, "as launched");
static_assert(Large::THREADS == LARGE_THREADS && Large::SHARED_BYTES == LARGE_SHARED_BYTES, "as launched");
static_assert(Small::ROWS == SMALL_ROWS && Small::OUTPUTS == SMALL_OUTPUTS, "as launched");
static_assert(Small::THREADS == SMALL_THREADS && Small::SHARED_BYTES == SMALL_SHARED_BYTES, "as launched");

}  // namespace

#define GEMM(name, Tile, transposed)                                         \
  extern "C" __global__ void __launch_bounds__(Tile::THREADS, 2)             \
      tandem_kernel_gemm_##name(const __grid_constant__ tandem_gpu_gemm a) { \
    gemm<Tile, transposed>(a);                                               \
  }

GEMM(large, Large, false)
GEMM(large_transposed, Large, true)
GEMM(small, Small, false)
GEMM(small_transposed, Small, true)

// Any sizes, plainly. Grid: (ceil(rows / 16), ceil(outputs / 16)). Block: (16, 16). No dynamic shared memory.
extern "C" __global__ void tandem_kernel_gemm_any(const __grid_constant__ tandem_gpu_gemm a) {
  __shared__ float x_tile[16][17], w_tile[16][17];  // [row][input], [output][input]
  wait_for_predecessors();
  launch_successors();
  const uint32_t first_row = blockIdx.x * 16, first_output = blockIdx.y * 16;
  const uint32_t row = first_row + threadIdx.y, output = first_output + threadIdx.x;
  const __half *x = as<const __half>(a.x), *weights = as<const __half>(a.weights);
  float sum = 0.0f;
  for (uint32_t first = 0; first < a.inputs; first += 16) {
    const uint32_t x_input = first + threadIdx.x;
    x_tile[threadIdx.y][threadIdx.x] =
        row < a.rows && x_input < a.inputs ? __half2float(x[size_t(row) * a.x_stride + x_input]) : 0.0f;
    // Neighbouring threads read neighbouring weights in both layouts.
    const uint32_t o = a.transposed ? threadIdx.x : threadIdx.y, i = a.transposed ? threadIdx.y : threadIdx.x;
    const uint32_t w_output = first_output + o, w_input = first + i;
    const bool is_inside = w_output < a.outputs && w_input < a.inputs;
    const size_t at =
        a.transposed ? size_t(w_input) * a.outputs + w_output : size_t(w_output) * a.inputs + w_input;
    w_tile[o][i] = is_inside ? __half2float(weights[at]) : 0.0f;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 16; k++) sum += x_tile[threadIdx.y][k] * w_tile[threadIdx.x][k];
    __syncthreads();
  }
  if (row >= a.rows || output >= a.outputs) return;
  if (a.bias) sum += as<const float>(a.bias)[output];
  if (a.residual) {
    as<float>(a.residual)[size_t(row) * a.outputs + output] += sum;
  } else {
    as<__half>(a.y)[size_t(row) * a.y_stride + output] = __float2half_rn(activate(sum, a.activation));
  }
}
