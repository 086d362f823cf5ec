// What the compute kernels share: problem descriptions and the declaration of every variant.
// C headers only, because files of one instruction set include this: an inline function of the C++ library
// compiled there could be picked by the linker for code that runs on every CPU.
//
// Letters: N batch, H W image, C input channels, O output channels, K = kernel_h * kernel_w * C per output.
// Images are NHWC, vectors [N][C], everything float32 and contiguous. Kernels trust their arguments, which the
// bindings check.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Output channels per block of packed weights: two AVX-512 or four AVX2 registers.
enum { BLOCK = 32, HALF_BLOCK = 16 };

// What happens to a sum before it is stored: y = (sum + bias) * scale + shift + residual, then relu.
// A null pointer leaves its part out. Multiplication and addition round separately, so that a fused call and separate
// calls give the same bits.
typedef struct {
  const float* bias;      // [O]
  const float* scale;     // [O]
  const float* shift;     // [O], set exactly when scale is
  const float* residual;  // shape of the output
  int relu;
} Epilogue;

// z = y * scale + shift, then (z >= 0 ? z : z * slope) * after_scale + after_shift, rounded after each operation. All
// or none (null) are there: a scale of 1 and a shift of 0 change nothing.
typedef struct {
  const float *scale, *shift, *slope, *after_scale, *after_shift;  // [C]
} Prelu;

typedef struct {
  int64_t batch, in_h, in_w, in_c;
  int64_t out_h, out_w, out_c;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t pad_h, pad_w;
  int64_t dilation_h, dilation_w;
  int64_t groups;
} Conv2dShape;

// A part of a convolution: output rows [row0, row1) of one image, weight blocks [block0, block1).
typedef struct {
  int64_t image, row0, row1, block0, block1;
} Conv2dTask;

// Packed weights of conv2d, per group: blocks of 32 output channels, the last one 16 wide if at most 16 are left, lanes
// without a channel zero; within a block [kernel_h][kernel_w][C / groups][width].
static inline int64_t padded_channels(int64_t channels) {
  return (channels + HALF_BLOCK - 1) / HALF_BLOCK * HALF_BLOCK;
}
static inline int64_t block_count(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }
static inline int64_t block_width(int64_t channels, int64_t block) {
  const int64_t left = padded_channels(channels) - block * BLOCK, most = BLOCK;
  return left < most ? left : most;
}

// scratch: conv2d_scratch(shape, rows) bytes, 64-byte aligned.
#define CONV2D_ARGUMENTS                                                                                            \
  const Conv2dShape *shape, const float *weights, const Epilogue *epilogue, const float *x, float *out,             \
      const Conv2dTask *task, void *scratch
void conv2d_ref(CONV2D_ARGUMENTS);
void conv2d_avx2(CONV2D_ARGUMENTS);
void conv2d_avx512(CONV2D_ARGUMENTS);
void conv2d_amx(CONV2D_ARGUMENTS);  // weights, scratch and which shapes: kernels/parts.h

// groups == C == O. Weights [kernel_h][kernel_w][padded C]; a weight block is 32 channels.
void depthwise_ref(CONV2D_ARGUMENTS);
void depthwise_avx2(CONV2D_ARGUMENTS);
void depthwise_avx512(CONV2D_ARGUMENTS);

static inline int64_t conv2d_input_rows(const Conv2dShape* s, int64_t rows) {
  return (rows - 1) * s->stride_h + (s->kernel_h - 1) * s->dilation_h + 1;
}
// One pointer per input row, one row of zeros and, where the image is padded sideways, a padded copy of each row.
static inline int64_t conv2d_padded_row(const Conv2dShape* s) { return (s->in_w + 2 * s->pad_w) * s->in_c; }
static inline int64_t conv2d_scratch(const Conv2dShape* s, int64_t rows) {
  const int64_t inputs = conv2d_input_rows(s, rows);
  const int64_t copies = 1 + (s->pad_w ? inputs : 0);
  const int64_t pointers = (inputs * (int64_t)sizeof(float*) + 63) / 64 * 64;
  return pointers + copies * conv2d_padded_row(s) * (int64_t)sizeof(float);
}

// out[n][o] for n in [n0, n1) and the channels of weight blocks [block0, block1); packed like a 1x1 convolution.
typedef struct {
  int64_t n0, n1, block0, block1;
} LinearTask;
#define LINEAR_ARGUMENTS                                                                                            \
  int64_t in_c, int64_t out_c, const float *weights, const Epilogue *epilogue, const float *x, float *out,          \
      const LinearTask *task
void linear_ref(LINEAR_ARGUMENTS);
void linear_avx2(LINEAR_ARGUMENTS);
void linear_avx512(LINEAR_ARGUMENTS);

// Entry e is at column columns[e] and has the value table[codes[e]], or table[e] where there are no codes. Run i, the
// entries of a row within a block of SPARSE_COLUMNS columns, in the order of columns, is [starts[i], starts[i + 1])
// with i = row * row_step + block * block_step. Runs are in the order of rows, or, where few samples have strips, in
// that of blocks, in which many samples pass them. One of each pair of pointers is null (codes: perhaps both). The
// arrays may be read up to SPARSE_SLACK entries past their end.
enum { SPARSE_SLACK = 16, SPARSE_COLUMNS = 128, SPARSE_LANES = 64, SPARSE_OUT_ROWS = 16 };
// Up to so many samples entries are gathered row by row.
enum { SPARSE_FEW = 2 };

// A second layout, for few samples, in which nothing is gathered from memory: 16 rows are the lanes of a register, each
// lane a queue of entries. A step takes the next entry of every lane whose column lies in a window of four registers of
// x, the lowest window that any lane still needs; the other lanes take a zero. Each register of x holds 15 columns and
// a zero, which is what lanes without an entry multiply: so no column reaches a row that does not use it, whatever is
// in it. Two steps share one register: lane l has the slots slots[16 * pair + l] & 0xffff and >> 16. Bits 0..4 and 15
// of a slot: place in the window, 5..14: code. Windows are in units of one register. Values as in SparseMatrix, one per
// slot if not in a table.
enum { STRIP_ROWS = 16, STRIP_UNIT = 16, STRIP_COLUMNS = 15, STRIP_WINDOW = 4 };
enum { STRIP_SAMPLES = 8, STRIP_BATCH = 16, STRIP_CODES = 1024 };
typedef struct {
  int64_t groups, blocks;    // of 16 rows; of neighbouring columns, whose inputs stay in the first-level cache
  const int32_t* rows;       // [groups][16], -1: none. Rows with about as many entries are together.
  const uint32_t* starts;    // [blocks * groups + 1]: the pairs of a block and a group
  const uint16_t* windows;   // [pairs][2]
  const uint32_t* slots;     // [pairs][16]
  const float* table;
  int64_t table_size;        // 0: a value per slot, [pairs][2][16]
} SparseStrips;
static inline int64_t strip_units(int64_t cols) {
  return (cols + STRIP_COLUMNS - 1) / STRIP_COLUMNS + STRIP_WINDOW - 1;
}

typedef struct {
  int64_t rows, cols, column_blocks;
  int64_t row_step, block_step;
  const uint32_t* starts;  // [column_blocks * rows + 1]
  const uint16_t* columns16;
  const uint32_t* columns32;
  const uint8_t* codes8;
  const uint16_t* codes16;
  const float* table;
  int64_t table_size;
  const SparseStrips* strips;  // or null
} SparseMatrix;
// Of a row, where entries are row by row.
static inline int64_t sparse_begin(const SparseMatrix* m, int64_t row) { return m->starts[row * m->row_step]; }
static inline int64_t sparse_end(const SparseMatrix* m, int64_t row) { return m->starts[(row + 1) * m->row_step]; }

// out[n][o] for n in [n0, n1), o in [row0, row1); n1 - n0 <= SPARSE_LANES. batch is that of the whole call: it alone
// decides the order of the additions, so that the result does not depend on how the work was divided. Strips are used
// up to STRIP_BATCH samples, n1 - n0 <= STRIP_SAMPLES; rows are then in their order, divided between groups.
typedef struct {
  int64_t n0, n1, row0, row1;
} SparseTask;
// scratch: one block of inputs transposed, and the sums of `rows` rows before they are transposed back; with strips,
// all inputs with their zeros, and the sums.
static inline int64_t sparse_linear_scratch(int64_t rows) {
  return (SPARSE_COLUMNS + rows) * SPARSE_LANES * (int64_t)sizeof(float);
}
static inline int64_t sparse_strips_scratch(int64_t cols, int64_t groups) {
  return (strip_units(cols) * STRIP_UNIT + groups * STRIP_ROWS) * STRIP_SAMPLES * (int64_t)sizeof(float);
}
#define SPARSE_LINEAR_ARGUMENTS                                                                                     \
  const SparseMatrix *matrix, const Epilogue *epilogue, const float *x, float *out, int64_t batch,                  \
      const SparseTask *task, void *scratch
void sparse_linear_ref(SPARSE_LINEAR_ARGUMENTS);
void sparse_linear_avx2(SPARSE_LINEAR_ARGUMENTS);
void sparse_linear_avx512(SPARSE_LINEAR_ARGUMENTS);

// Maxima: what lies outside the image counts as -inf, NaN wins. Means: of windows, or of parts that divide the image as
// evenly as whole pixels allow; maxima of such parts.
enum { POOL_MAX, POOL_MEAN, POOL_ADAPTIVE_MEAN, POOL_ADAPTIVE_MAX };
typedef struct {
  int kind;
  int64_t in_h, in_w, channels, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int count_include_pad;
} PoolShape;
// x, out: one image, of which output rows [row0, row1) are computed.
#define POOL2D_ARGUMENTS const PoolShape *shape, const float *x, float *out, int64_t row0, int64_t row1
void pool2d_ref(POOL2D_ARGUMENTS);
void pool2d_avx2(POOL2D_ARGUMENTS);
void pool2d_avx512(POOL2D_ARGUMENTS);

// One pass of training over pixels x channels numbers, channels innermost, float32 or (`half`) bfloat16.
//   SIGN        result = +1 where x >= 0, else -1
//   SIGN_BACK   result = gradient max(0, 2 - 2 |x|) with `curve`, else gradient 1{|x| < 1}
//   SHIFT       result = x - before[c]
//   SUM         sums[c] = those of x
//   RPRELU      d = x - before[c]; result = (d > 0 ? d : slope[c] d) + after[c]
//   RPRELU_BACK result = gradient (d > 0 ? 1 : slope[c]); sums: 3 x channels, of result, of gradient min(d, 0), of
//               gradient
enum { TRAIN_SIGN, TRAIN_SIGN_BACK, TRAIN_SHIFT, TRAIN_SUM, TRAIN_RPRELU, TRAIN_RPRELU_BACK };
typedef struct {
  int64_t pixels, channels;
} ChannelShape;
typedef struct {
  int operation, half, curve;
  ChannelShape shape;
  const void *x, *gradient;
  void* result;
  const float *before, *slope, *after;
  float* sums;
} TrainingCall;
void training_ref(const TrainingCall* call);
void training_avx2(const TrainingCall* call);
void training_avx512(const TrainingCall* call);

// x + other and x * other, of the element or of the row; |x|; x between low and high, where NaN stays; x * scale + shift,
// rounded after each; the same with x = byte / 255; what Prelu says; curves: 1 / (1 + exp(-x)), tanh(x), x or below zero
// low * (exp(x) - 1), x times the normal distribution's probability of less than x, the square root, 1 over it.
enum {
  ELEMENTWISE_ADD,
  ELEMENTWISE_ADD_ROWS,
  ELEMENTWISE_MUL,
  ELEMENTWISE_MUL_ROWS,
  ELEMENTWISE_ABS,
  ELEMENTWISE_CLAMP,
  ELEMENTWISE_AFFINE,
  ELEMENTWISE_NORMALIZE,
  ELEMENTWISE_PRELU,
  ELEMENTWISE_SIGMOID,
  ELEMENTWISE_TANH,
  ELEMENTWISE_ELU,
  ELEMENTWISE_GELU,
  ELEMENTWISE_SQRT,
  ELEMENTWISE_RSQRT
};
typedef struct {
  int kind;
  int64_t rows, channels;  // of x, other and out
  const void* x;           // uint8_t to normalise, else float
  const float* other;
  const float *scale, *shift;  // [channels]
  Prelu prelu;
  float low, high;
  float* out;
} Elementwise;
void elementwise_ref(const Elementwise* e);
void elementwise_avx2(const Elementwise* e);
void elementwise_avx512(const Elementwise* e);

// Numbers divided by how large those around them are, across channels. NORM_RESPONSE: y = x / (bias + alpha * the sum of
// squares of `size` neighbouring channels, size / 2 of them before)^beta. NORM_GROUPS: (x - mean) / sqrt(variance + bias)
// within each of `size` groups of neighbouring channels, over all pixels.
enum { NORM_RESPONSE, NORM_GROUPS };
typedef struct {
  int kind;
  int64_t pixels, channels, size;
  float alpha, beta, bias;
} ChannelNorm;
static inline int64_t channel_norm_scratch(const ChannelNorm* n) {
  return n->kind == NORM_RESPONSE ? (2 * n->channels + n->size) * (int64_t)sizeof(float)
                                  : 2 * n->channels * (int64_t)sizeof(double);
}
#define CHANNEL_NORM_ARGUMENTS const ChannelNorm *norm, const float *x, float *out, void *scratch
void channel_norm_ref(CHANNEL_NORM_ARGUMENTS);
void channel_norm_avx2(CHANNEL_NORM_ARGUMENTS);
void channel_norm_avx512(CHANNEL_NORM_ARGUMENTS);

// As many multiply-adds per second as there can be: independent sums in registers. Writes how many operations that
// were, two per multiply-add and lane, and returns something made of all sums.
float fma_peak_ref(int64_t turns, double* operations);
float fma_peak_avx2(int64_t turns, double* operations);
float fma_peak_avx512(int64_t turns, double* operations);

// [rows][columns] elements of `bytes` (1 or 4) bytes to [columns][rows].
void transpose_portable(int64_t rows, int64_t columns, int64_t bytes, const void* x, void* out);
