// Float layers whose zeros follow a pattern: the layouts of their weights, and the declaration of every variant. C
// headers only, as kernels.h.
//
// Lanes are 16 output channels, a block. PATTERN: every output channel has weights of its own at few of every 16
// neighbouring input channels (N:M sparsity): a register of 16 inputs is permuted so that each lane meets its own.
// BLOCKED: the channels of a block have their weights at the same places: those places are a list, and the others cost
// nothing. A linear layer is a convolution of one pixel; its samples are then a row of pixels.
#pragma once
#include "kernels.h"

// Inputs that are permuted at once; weights that a channel may have among them.
enum { PATTERN_WINDOW = 16, PATTERN_SLOTS = 8 };

// Places and values: [block][kernel_h][kernel_w][window], for each window `slots` (2, 4, 6 or 8) registers of values
// and one of places: bits 4 s to 4 s + 3 of a lane say which input of the window the value of slot s is for. A lane has
// as many bits as the slots need, 8, 16 or 32: `place_bytes` bytes. Slots without a weight are zeros for a place that
// has one, if the window has any: they come last.
typedef struct {
  int64_t slots, windows, place_bytes;  // windows of one tap
  const uint8_t* places;
  const float* values;
} PatternWeights;

// Tap e is the input `offsets[e]` floats behind the first of a pixel, kernel_w * dilation_w pixels wide, and 16 weights.
// Those of a block and a kernel row are [starts[i], starts[i + 1]) with i = block * kernel_h + ky.
typedef struct {
  const uint32_t *starts, *offsets;
  const float* values;  // [taps][16]
} BlockedWeights;

static inline int64_t pattern_blocks(int64_t channels) { return (channels + HALF_BLOCK - 1) / HALF_BLOCK; }

// `task`: blocks of 16 output channels, group by group. scratch: conv2d_scratch bytes.
#define PATTERN_ARGUMENTS(Weights)                                                                                 \
  const Conv2dShape *shape, const Weights *weights, const Epilogue *epilogue, const float *x, float *out,          \
      const Conv2dTask *task, void *scratch
void pattern_conv_ref(PATTERN_ARGUMENTS(PatternWeights));
void pattern_conv_avx2(PATTERN_ARGUMENTS(PatternWeights));
void pattern_conv_avx512(PATTERN_ARGUMENTS(PatternWeights));
void blocked_conv_ref(PATTERN_ARGUMENTS(BlockedWeights));
void blocked_conv_avx2(PATTERN_ARGUMENTS(BlockedWeights));
void blocked_conv_avx512(PATTERN_ARGUMENTS(BlockedWeights));
