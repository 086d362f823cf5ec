// Sparse convolution: the layout of its weights, and the declaration of every variant. C headers only, as kernels.h.
//
// Lanes are neighbouring pixels of a row, accumulators are the rows of a tile: a weight is broadcast and multiplied
// with one register per row. Input channels are taken in blocks whose copy, transposed to [channel][row][phase][line],
// stays in the first-level cache while all output channels pass over it.
//
// Along a row, output j reads input (j + shift) * stride + phase - padding, where kx * dilation = shift * stride +
// phase. Columns of a phase are neighbours in a line of the copy. Weights of different shifts are summed in sets of
// their own, without the shift, and the sets are shifted when they are added: so every load is aligned. (With more
// shifts than sets, set s holds the shifts s, s + sets, ..., and the loads of the later ones are not.)
#pragma once
#include "kernels.h"

// `origin`: which shift needs no shifting; 1 only where the whole row is one line.
typedef struct {
  Conv2dShape shape;
  int64_t lanes, sets, rows;       // a tile: rows of so many lanes; 0 lanes: ref
  int64_t origin, tile_columns;    // lanes that hold outputs after shifting
  int64_t phases, line, in_rows;   // of the copy, floats per line
  int64_t block_channels, blocks;  // per group
  const uint32_t* starts;          // [blocks][out_c][sets] + 1 more: entries of a block, an output channel, a set
  const uint32_t* offsets;         // in the copy; ref: position in the filter [C / groups][kernel_h][kernel_w]
  const float* values;
} SparseConvWeights;

static inline int64_t sparse_conv_channel(const SparseConvWeights* w) { return w->in_rows * w->phases * w->line; }

// Output channels [o0, o1) of a tile: from row `row` and column `column` on.
typedef struct {
  int64_t image, row, column, o0, o1;
} SparseConvTask;

// scratch: the copy, the sums [o1 - o0][rows][lanes] and a pixel of zeros.
static inline int64_t sparse_conv_scratch(const SparseConvWeights* w, int64_t channels) {
  const int64_t pixel = (w->block_channels + 63) / 16 * 16;
  return (w->block_channels * sparse_conv_channel(w) + channels * w->rows * w->lanes + pixel + 64) *
         (int64_t)sizeof(float);
}
#define SPARSE_CONV_ARGUMENTS                                                                                         \
  const SparseConvWeights *weights, const Epilogue *epilogue, const float *x, float *out, const SparseConvTask *task, \
      void *scratch
void sparse_conv_ref(SPARSE_CONV_ARGUMENTS);
void sparse_conv_avx2(SPARSE_CONV_ARGUMENTS);
void sparse_conv_avx512(SPARSE_CONV_ARGUMENTS);
