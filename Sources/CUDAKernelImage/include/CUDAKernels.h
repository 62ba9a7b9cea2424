#ifndef TANDEM_CUDA_KERNELS_H
#define TANDEM_CUDA_KERNELS_H

// The arguments of the GPU lane's kernels: read by Kernels/*.cu and by Swift, so that the two cannot differ.
//
// A kernel takes one of these structs by value and nothing else. Pointers are device addresses, 0 for none.
// The residual stream is fp32, [rows, hidden]; every other activation, the weights and the KV cache are fp16;
// biases and layer norms' vectors are fp32; every sum is accumulated in fp32. Strides count elements. Shapes
// are row-major.
//
// Kernels of one step follow each other by programmatic dependent launch: each lets its successor start
// early, and reads nothing that an earlier kernel writes before `griddepcontrol.wait`.

#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

typedef uint64_t tandem_device_pointer;

enum { TANDEM_GPU_IDENTITY = 0, TANDEM_GPU_RELU = 1, TANDEM_GPU_GELU = 2 };

/// The most ranks that write into each other's memory.
#define TANDEM_GPU_MOST_RANKS 8

/// The most rows that the kernels of few rows take.
#define TANDEM_GPU_FEW_ROWS 32

/// One row of a step: a token at a position of a sequence. Written by the host before the step.
typedef struct {
  /// Keys of the sequence's first layer and first head, in a cache [layer][K, V][head][capacity][head
  /// dimension], fp16; or with the bytes of a position in 4 bits in the place of the last, and a multiple of
  /// 16 for every [capacity].
  tandem_device_pointer cache;
  /// The same for the heads whose cache lies in CPU memory, mapped; 0 where there are none.
  tandem_device_pointer host_cache;
  /// The token's row of the token table and the position's row of the position table, in GPU memory or
  /// mapped.
  tandem_device_pointer token_row;
  tandem_device_pointer position_row;
  uint32_t capacity;
  int32_t position;
} tandem_gpu_row;

/// Rows of one sequence that follow each other in a prefill step.
typedef struct {
  uint32_t first_row, row_count;
} tandem_gpu_segment;

/// residual[r, :] = rows[r].position_row (+ rows[r].token_row); where `gathered` is given, the token's row
/// goes there instead, for the projection that follows. Grid: rows. Block: 256.
typedef struct {
  tandem_device_pointer rows;      // tandem_gpu_row [rows]
  tandem_device_pointer residual;  // fp32 [rows, hidden]
  tandem_device_pointer gathered;  // fp16 [rows, embedding] or 0
  uint32_t hidden, embedding;
} tandem_gpu_embed;

/// y[r, :] = (x[r, :] - mean) / sqrt(variance + epsilon) * weight + bias, in fp16, and where `keep` is set to
/// x too. Without `normalize` it only rounds: y = x. Row r is taken from row_indices[r] where that is given.
/// Grid: rows. Block: 256.
typedef struct {
  tandem_device_pointer x;            // fp32 [*, hidden]
  tandem_device_pointer y;            // fp16 [rows, hidden]
  tandem_device_pointer weight;       // fp32 [hidden] or 0 for 1
  tandem_device_pointer bias;         // fp32 [hidden] or 0
  tandem_device_pointer row_indices;  // uint32 [rows] or 0
  uint32_t hidden;
  uint32_t normalize, keep;
  float epsilon;
} tandem_gpu_layer_norm;

/// Items from `first` on of which only those in front of *end count in this step: a split that moves between
/// steps, while the kernels' arguments stay.
typedef struct {
  tandem_device_pointer end;  // uint32, on the device, the same in all of a step; or 0 where all count
  uint32_t first;
} tandem_gpu_limit;

/// y[r, o] = activation(bias[o] + sum over i of x[r, i] * weights[o, i]), rows <= TANDEM_GPU_FEW_ROWS.
typedef struct {
  tandem_device_pointer x;        // fp16 [rows, inputs]
  tandem_device_pointer weights;  // fp16 [outputs, inputs]
  tandem_device_pointer bias;     // fp32 [outputs] or 0
  tandem_device_pointer y;        // [rows, y_stride], fp16, or fp32 where y_is_float is set
  uint32_t x_stride, y_stride, rows, inputs, outputs;
  uint32_t activation, y_is_float;
  /// The weights are there before the kernels in front have run: they are not streamed.
  uint32_t is_resident;
  /// `linear_normalized` alone: x is the layer norm of this, fp32 [rows, inputs], as `tandem_gpu_layer_norm`
  /// has it.
  tandem_device_pointer residual;
  tandem_device_pointer norm_weight;  // fp32 [inputs] or 0 for 1
  tandem_device_pointer norm_bias;    // fp32 [inputs] or 0
  float epsilon;
  tandem_gpu_limit limit;  // of the outputs
} tandem_gpu_linear;

/// residual[r, o] += bias[o] + sum over i of x[r, i] * weights[i, o], rows <= TANDEM_GPU_FEW_ROWS.
///
/// `inputs` is cut into `split_count` parts that different blocks sum; the last block of a tile of outputs
/// adds them in order, so the result does not depend on which block is last.
typedef struct {
  tandem_device_pointer x;         // fp16 [rows, x_stride]
  tandem_device_pointer weights;   // fp16 [inputs, outputs]
  tandem_device_pointer bias;      // fp32 [outputs] or 0
  tandem_device_pointer residual;  // fp32 [rows, outputs]
  tandem_device_pointer partials;  // fp32 [split_count, rows, outputs]
  tandem_device_pointer counters;  // uint32 [tiles of outputs], zero before and after
  uint32_t x_stride, rows, inputs, outputs, split_count;
  uint32_t is_resident;
  tandem_gpu_limit limit;  // of the inputs
} tandem_gpu_linear_transposed;

/// y[r, o] = activation(bias[o] + sum over i of x[r, i] * W[o, i]), or, where `by_inputs` is set, residual[r,
/// o] += bias[o] + sum, for weights in tiles (docs/quantization.md); rows <= TANDEM_GPU_FEW_ROWS, inputs,
/// outputs and period multiples of 16, x_stride of 8. A weight is minimum + scale * code, rounded to fp16.
///
/// By inputs they are cut into `split_count` parts as in `tandem_gpu_linear_transposed`.
typedef struct {
  tandem_device_pointer x;         // fp16 [rows, x_stride]
  tandem_device_pointer tiles;     // at 64 bytes
  tandem_device_pointer bias;      // fp32 [outputs] or 0
  tandem_device_pointer y;         // by outputs: [rows, y_stride], fp16, or fp32 where y_is_float is set
  tandem_device_pointer partials;  // by inputs: fp32 [split_count, rows, outputs]
  tandem_device_pointer counters;  // by inputs: uint32 [ceil(outputs / 64)], zero before and after
  uint32_t x_stride, y_stride, rows, inputs, outputs;
  uint32_t bits;    // 4 or 8
  uint32_t period;  // inputs after which the groups begin anew; 64 where heads do not matter
  uint32_t by_inputs, split_count;
  uint32_t activation, y_is_float;
  /// The weights are there before the kernels in front have run: they are not streamed.
  uint32_t is_resident;
  /// By inputs: what the sums are added to, fp32 [rows, outputs]. By outputs: x is the layer norm of this,
  /// fp32 [rows, inputs], as in `tandem_gpu_linear`; or 0.
  tandem_device_pointer residual;
  tandem_device_pointer norm_weight;  // fp32 [inputs] or 0 for 1
  tandem_device_pointer norm_bias;    // fp32 [inputs] or 0
  float epsilon;
  tandem_gpu_limit limit;  // of the outputs, or by inputs of these, where a group ends
} tandem_gpu_linear_quantized;

/// y[r, o] = activation(bias[o] + sum over i of x[r, i] * W[o, i]), or parts[s, r, o] = the sum over part s
/// of the inputs, for weights that lie in GPU memory and are described to the copy engine; rows <=
/// TANDEM_GPU_FEW_ROWS.
typedef struct {
  /// Tensor maps in GPU memory, at 64 bytes, with 128-byte swizzle. Of weights [outputs, inputs]: boxes of
  /// (64 inputs, outputs of a block); of weights [inputs, outputs]: boxes of (64 outputs, 64 inputs); of x:
  /// boxes of (64 inputs, rows rounded up to 8), and no more inputs than there are.
  tandem_device_pointer weights_map, x_map;
  tandem_device_pointer bias;   // fp32 [outputs] or 0
  tandem_device_pointer y;      // [rows, y_stride], fp16, or fp32 where y_is_float is set; or 0
  tandem_device_pointer parts;  // fp32 [split_count, rows, outputs] or 0, without bias and activation then
  uint32_t y_stride, rows, inputs, outputs, activation, y_is_float;
  uint32_t split_count;  // 1 where there are no parts
} tandem_gpu_linear_boxes;
#define TANDEM_GPU_BOXES_BLOCK 256
#define TANDEM_GPU_BOXES_SHARED_BYTES 99328

/// x[r, :] += bias + the sum of parts[:, r, :]; then y as `tandem_gpu_layer_norm` has it, for the row of x
/// that row_indices[r] says. hidden is a multiple of 4, at most 12288. Grid: rows. Block: 1024.
typedef struct {
  tandem_device_pointer x;            // fp32 [*, hidden]
  tandem_device_pointer parts;        // fp32 [part_count, part_rows, hidden]
  tandem_device_pointer parts_bias;   // fp32 [hidden] or 0
  tandem_device_pointer y;            // fp16 [rows, hidden]
  tandem_device_pointer weight;       // fp32 [hidden] or 0 for 1
  tandem_device_pointer bias;         // fp32 [hidden] or 0
  tandem_device_pointer row_indices;  // uint32 [rows] or 0
  uint32_t hidden, part_count, part_rows;
  float epsilon;
} tandem_gpu_layer_norm_parts;

/// Many rows (prefill), on tensor cores. W is weights[o * inputs + i], or weights[i * outputs + o] where
/// `transposed`. y[r, o] = activation(bias[o] + sum), fp16; or, where `residual` is given, residual[r, o] +=
/// bias[o] + sum, fp32.
typedef struct {
  tandem_device_pointer x;         // fp16 [rows, x_stride]
  tandem_device_pointer weights;   // fp16 [outputs, inputs] or [inputs, outputs]
  tandem_device_pointer bias;      // fp32 [outputs] or 0
  tandem_device_pointer y;         // fp16 [rows, y_stride] or 0
  tandem_device_pointer residual;  // fp32 [rows, outputs] or 0
  uint32_t x_stride, y_stride, rows, inputs, outputs;
  uint32_t activation, transposed;
} tandem_gpu_gemm;

/// The same of weights in tiles, kept as `tandem_gpu_linear_quantized` has them.
typedef struct {
  tandem_device_pointer x;         // fp16 [rows, x_stride]
  tandem_device_pointer tiles;     // at 64 bytes
  tandem_device_pointer bias;      // fp32 [outputs] or 0
  tandem_device_pointer y;         // fp16 [rows, y_stride] or 0
  tandem_device_pointer residual;  // fp32 [rows, outputs] or 0
  uint32_t x_stride, y_stride, rows, inputs, outputs;
  uint32_t bits, period, by_inputs;
  uint32_t activation;
} tandem_gpu_gemm_quantized;

// The three operations of attention take some heads of a piece: `piece_heads` are those of its queries, keys
// and values in `qkv`, whose address is that of the first head taken. Head h of them is head first_head + h
// of the cache, which is `host_cache` where `on_host` is set. It is kept in fp16, or in 4 bits
// (docs/quantization.md) where `cache_bits` is 4: what is stored is rounded first, a row's own key and value
// too before attention sees them. The head dimension is a multiple of 16 then.

/// Keys and values of new rows into the cache.
/// Grid: rows. Block: 256.
typedef struct {
  tandem_device_pointer rows;  // tandem_gpu_row [rows]
  tandem_device_pointer qkv;   // fp16 [rows, 3, piece_heads * head_dimension], from the first head on
  uint32_t heads, head_dimension, layer, first_head, cache_heads;
  uint32_t piece_heads, on_host;
  uint32_t cache_bits;  // 16 or 4
} tandem_gpu_store_keys_values;

/// Decode: one query a row over the row's sequence, its own key and value included, which the kernel takes
/// from `qkv` and stores into the cache. out = softmax(scale * q . keys^T) . values.
///
/// The sequence is cut into parts of TANDEM_GPU_ATTENTION_PART positions that different blocks take; the last
/// block of a row's head joins them in order.
typedef struct {
  tandem_device_pointer rows;      // tandem_gpu_row [rows]
  tandem_device_pointer qkv;       // fp16 [rows, 3, piece_heads * head_dimension], from the first head on
  tandem_device_pointer out;       // fp16 [rows, piece_heads * head_dimension]
  tandem_device_pointer partials;  // fp32 [rows, heads, part_count, head_dimension + 2]
  tandem_device_pointer counters;  // uint32 [rows, heads], zero before and after
  uint32_t row_count, heads, head_dimension, layer, first_head, cache_heads;
  uint32_t piece_heads, on_host;
  uint32_t cache_bits;  // 16 or 4
  /// Parts for which there are blocks, enough for the longest capacity.
  uint32_t part_count;
  float scale;
} tandem_gpu_attention_decode;
#define TANDEM_GPU_ATTENTION_PART 128
/// `attention_rows`: the same without partials, counters and parts.
#define TANDEM_GPU_ATTENTION_ROWS_BLOCK 256
#define TANDEM_GPU_ATTENTION_ROWS_SHARED_BYTES 65536

/// Prefill: causal attention of segments' rows over the cache, where `tandem_gpu_store_keys_values` has put
/// their own keys and values. Row r of the step sees the positions 0 ... rows[r].position of its sequence.
typedef struct {
  tandem_device_pointer rows;      // tandem_gpu_row [rows]
  tandem_device_pointer segments;  // tandem_gpu_segment [segments]
  tandem_device_pointer qkv;       // fp16 [rows, 3, piece_heads * head_dimension], from the first head on
  tandem_device_pointer out;       // fp16 [rows, piece_heads * head_dimension]
  uint32_t segment_count, heads, head_dimension, layer, first_head, cache_heads;
  uint32_t piece_heads, on_host;
  uint32_t cache_bits;  // 16 or 4
  float scale;
} tandem_gpu_attention_prefill;
/// Queries of a block: the grid is (ceil(longest segment / this), heads, segments).
#define TANDEM_GPU_ATTENTION_QUERIES 64

/// The vectors of one layer, fp32, each or 0: norms' weights and biases [hidden], biases.
typedef struct {
  tandem_device_pointer attention_norm_weight, attention_norm_bias, qkv_bias, output_bias;
  tandem_device_pointer mlp_norm_weight, mlp_norm_bias, fc1_bias, fc2_bias;
} tandem_gpu_decode_vectors;

/// What a decode step reads of one layer. In GPU memory, at 64 bytes.
typedef struct {
  /// Of the weights that lie [outputs, inputs]: 3 dimensions (64 inputs, outputs, inputs / 64), boxes of (64,
  /// 16, 8) in 128-byte swizzle. Of those that lie [inputs, outputs]: 2 dimensions (outputs, inputs), boxes
  /// of (64, 128) in the same swizzle. Of quantized weights the first word is the tiles' address.
  uint64_t qkv[16], output[16], fc1[16], fc2[16];
  tandem_gpu_decode_vectors vectors;
} tandem_gpu_decode_layer;

/// A decode step of one sequence from the residual stream to the logits, in one kernel whose blocks all run
/// at once.
typedef struct {
  tandem_device_pointer layers;      // tandem_gpu_decode_layer [layer_count]
  tandem_device_pointer logits_map;  // as a layer's `qkv`
  tandem_device_pointer row;         // tandem_gpu_row
  tandem_device_pointer residual;    // fp32 [hidden]
  tandem_device_pointer logits;      // fp32 [vocabulary]
  tandem_device_pointer final_norm_weight, final_norm_bias;
  /// TANDEM_GPU_DECODE_SETS of what blocks hand each other: `set_byte_count` each, all bits set before and
  /// after.
  tandem_device_pointer exchange;
  tandem_device_pointer counters;  // uint32 [2], zero before and after
  uint32_t layer_count, hidden, heads, neuron_count, vocabulary;
  uint32_t activation, attention_parts;
  /// Blocks among which the inputs of the output projection and of fc2 are cut.
  uint32_t output_participants, fc2_participants;
  /// Of a set: where each part begins. Queries, keys and values, and neurons, are fp16, the others fp32:
  /// attended [heads, attention_parts, head_dimension], its weights [heads, attention_parts, 2], sums
  /// [TANDEM_GPU_DECODE_SLOTS, hidden].
  uint32_t attended, attended_weights, output_sums, neurons, fc2_sums, set_byte_count;
  /// The fewest clock cycles from one stage's copy to the next.
  uint32_t pace;
  float scale, epsilon;
} tandem_gpu_decode;
#define TANDEM_GPU_DECODE_SETS 4
#define TANDEM_GPU_DECODE_SLOTS 16
#define TANDEM_GPU_DECODE_LAYERS 96
#define TANDEM_GPU_DECODE_HIDDEN 12288
#define TANDEM_GPU_DECODE_STAGE_BYTES 16384
/// Inputs of a stage of W [inputs, outputs].
#define TANDEM_GPU_DECODE_STAGE_INPUTS 128
/// Threads and dynamic shared memory of a block.
#define TANDEM_GPU_DECODE_BLOCK 384
#define TANDEM_GPU_DECODE_SHARED_BYTES 230976

/// The most ranks whose sums meet in the kernel.
#define TANDEM_GPU_DECODE_RANKS 8

/// Where the sums of 64 outputs lie that this rank's blocks write, and how many there are of all ranks.
typedef struct {
  uint8_t first_slot, slot_count;
} tandem_gpu_decode_tile;

/// The same step of one rank's part of a model, whose heads, neurons and rows of the vocabulary `step`
/// counts. All ranks begin with the same residual stream, and none begins a step before all have ended the
/// one before.
typedef struct {
  tandem_gpu_decode step;  // `output_sums` and `fc2_sums` are not used
  /// Where this rank's GPU has each rank's memory for what ranks hand each other: TANDEM_GPU_DECODE_SETS of
  /// `peer_set_byte_count`, all bits set before and after. In each the sums of the output projection, fp32
  /// [slots, hidden], and from `peer_fc2_sums` on those of fc2. Slots of an output are rank 0's first, then
  /// rank 1's and so on, as `tiles` has them: they are the same in the memory of all ranks.
  tandem_device_pointer peers[TANDEM_GPU_DECODE_RANKS];
  tandem_device_pointer tiles;  // tandem_gpu_decode_tile [2: output projection, fc2][hidden / 64]
  uint32_t rank, rank_count, peer_fc2_sums, peer_set_byte_count;
} tandem_gpu_decode_rank;

/// How the token of one row is chosen: as the host's sampler does it, draw included.
typedef struct {
  /// 0: greedy.
  float temperature;
  /// 1: off.
  float top_p;
  /// 0: off.
  uint32_t top_k;
  /// In [0, 1), drawn by the host.
  float uniform;
  /// A token that may not be chosen, or -1.
  int32_t forbidden;
  uint32_t reserved;
} tandem_gpu_choice;

/// tokens[r] = the token chosen from logits[r, :]; then, when all rows are done, *sequence_number = the
/// number of the step, for the host that polls. Grid: rows. Block: 1024.
typedef struct {
  tandem_device_pointer logits;           // fp32 [rows, vocabulary]
  tandem_device_pointer choices;          // tandem_gpu_choice [rows]
  tandem_device_pointer tokens;           // int32 [rows], in mapped host memory
  tandem_device_pointer counter;          // uint32, zero before and after
  tandem_device_pointer step;             // uint32: the number of this step, on the device
  tandem_device_pointer sequence_number;  // uint32 in mapped host memory
  uint32_t rows, vocabulary;
} tandem_gpu_sample;

/// Polls until *flag is `value` (within timeout_nanoseconds, else *failure = 1 and it goes on), unless the
/// limit lets nothing count. Grid: 1. Block: 1.
typedef struct {
  tandem_device_pointer flag;     // uint32
  tandem_device_pointer failure;  // uint32 in mapped host memory
  uint32_t value;
  uint64_t timeout_nanoseconds;
  tandem_gpu_limit limit;
} tandem_gpu_wait;

/// *flag = value, after everything in front of it, and then, where it is given, *notice = notice_value;
/// unless the limit lets nothing count. Grid: 1. Block: 1.
typedef struct {
  tandem_device_pointer flag;    // uint32
  tandem_device_pointer notice;  // uint32, for the host in mapped memory, or 0
  uint32_t value;
  uint32_t notice_value;
  tandem_gpu_limit limit;
} tandem_gpu_signal;

// An exchange with another lane: `publish` hands it some columns of the activations, `await` takes its
// answer. Each side keeps a word for the exchange, which holds the number of the last step in which that
// side's values were there. `step` is the number of this step, in GPU memory: a graph that was captured once
// serves all steps.

/// to[r, c] = from[r, c]; then *word = *step: whoever sees it sees the values, on the host too.
/// Grid: any, `counter` serves it where it is more than one. Block: 512.
typedef struct {
  tandem_device_pointer from;     // fp16 [rows, stride], from the first column on
  tandem_device_pointer to;       // fp16 [rows, columns], contiguous, in mapped host memory
  tandem_device_pointer step;     // uint32
  tandem_device_pointer word;     // uint32 in mapped host memory
  tandem_device_pointer counter;  // uint32, zero before and after
  uint32_t rows, stride, columns;
} tandem_gpu_publish;

/// Polls until *word == *step; then to[r, c] = from[r, c].
///
/// It gives up where *abort is not 0, or becomes TANDEM_GPU_WAITED_TOO_LONG because the answer did not come
/// within timeout_nanoseconds; `to` stays as it is then. Grid: any. Block: 512.
///
/// `to` may be written while kernels between this one and its `publish` run: they leave these columns alone.
typedef struct {
  tandem_device_pointer from;   // fp16 [rows, columns], contiguous, in mapped host memory
  tandem_device_pointer to;     // fp16 [rows, stride], from the first column on
  tandem_device_pointer step;   // uint32
  tandem_device_pointer word;   // uint32 in mapped host memory
  tandem_device_pointer abort;  // uint32 in mapped host memory
  uint32_t rows, stride, columns;
  uint64_t timeout_nanoseconds;
} tandem_gpu_await;

/// Polls as `await` does, until *word == *step; then to[r, c] = from[r, c], or += where `adds` is set: the
/// end of a block that two lanes compute together. Grid: any. Block: 512.
typedef struct {
  tandem_device_pointer from;   // fp32 [rows, columns], contiguous, in mapped host memory
  tandem_device_pointer to;     // fp32 [rows, stride], from the first column on
  tandem_device_pointer step;   // uint32
  tandem_device_pointer word;   // uint32 in mapped host memory
  tandem_device_pointer abort;  // uint32 in mapped host memory
  uint32_t rows, stride, columns, adds;
  uint64_t timeout_nanoseconds;
} tandem_gpu_join;
enum { TANDEM_GPU_WAITED_TOO_LONG = 1 };

/// residual[i] = the sum over all ranks of their sum[i], in the order of ranks; residual may be sum. `memory`
/// is what each rank has of the kind [2][ranks][capacity] x (word, number), zeros at first, as this rank's
/// GPU sees it; the own one is at `rank`. The number of an all-reduce is *step * numbers_per_step + number +
/// 1; consecutive ones must not both be even or odd. With `clears` sum becomes zeros. Grid: a thread for two
/// elements. Block: 256.
typedef struct {
  tandem_device_pointer sum;       // fp32 [count]
  tandem_device_pointer residual;  // fp32 [count]
  tandem_device_pointer step;      // uint32
  tandem_device_pointer failure;   // uint32, mapped: 1 where a part did not come in time
  tandem_device_pointer memory[TANDEM_GPU_MOST_RANKS];
  uint32_t count, capacity;  // elements; the latter a multiple of two
  uint32_t rank, rank_count;
  uint32_t number, numbers_per_step;
  uint32_t clears;
  uint64_t timeout_nanoseconds;
} tandem_gpu_all_reduce;

/// Reads every 16 bytes once and adds up a digest: what decode is measured against. Block: 512.
typedef struct {
  tandem_device_pointer bytes;
  tandem_device_pointer digest;  // uint32
  uint64_t byte_count;
} tandem_gpu_read;

/// An image that a driver can load, and the compute capability from which on it runs.
typedef struct {
  const void *bytes;
  uint64_t byte_count;
  /// 80 for 8.0.
  uint32_t compute_capability;
  /// Machine code runs on its own generation only (90: 9.x); portable code on everything newer too.
  uint32_t is_machine_code;
} tandem_cuda_image;

#ifndef __CUDACC_RTC__
/// The compiled kernels, best first.
extern const tandem_cuda_image tandem_cuda_images[];
extern const uint32_t tandem_cuda_image_count;
#endif

#endif
