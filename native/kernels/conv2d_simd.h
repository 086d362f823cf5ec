// Convolution as an implicit matrix product over padded input rows. Include vec_<isa>.h first.
#pragma once
#include <string.h>

#include "conv2d_tiles.h"

// What all tiles of a task have in common.
static Tile conv_tile(const Conv2dShape* s) {
  const int64_t channels = s->in_c / s->groups;
  // Taps side by side in memory are one long run: what makes images of 1 or 3 channels fast.
  const int merged = s->dilation_w == 1 && s->groups == 1;
  Tile t;
  memset(&t, 0, sizeof t);
  t.row_stride = s->stride_h;
  t.row_dilation = s->dilation_h;
  t.pixel_step = s->stride_w * s->in_c;
  t.segments = merged ? 1 : s->kernel_w;
  t.segment_step = s->dilation_w * s->in_c;
  t.run = merged ? s->kernel_w * channels : channels;
  t.triple = s->kernel_w == TRIPLE && s->stride_w == 1 && s->dilation_w == 1;
  t.out_row_step = s->out_w * s->out_c;
  t.out_pixel_step = s->out_c;
  return t;
}

static void conv2d(CONV2D_ARGUMENTS) {
  const Conv2dShape* s = shape;
  const int64_t in_c = s->in_c / s->groups, out_c = s->out_c / s->groups;
  const int64_t taps = s->kernel_h * s->kernel_w * in_c, blocks = block_count(out_c);
  prepare_rows(s, x + task->image * s->in_h * s->in_w * s->in_c, task, scratch);
  Tile t = conv_tile(s);
  for (int64_t b = task->block0; b < task->block1; ++b) {
    const int64_t group = b / blocks, block = b % blocks, left = out_c - block * BLOCK;
    t.width = block_width(out_c, block);
    t.weights = weights + (group * padded_channels(out_c) + block * BLOCK) * taps;
    const int64_t channel = group * out_c + block * BLOCK, first = group * in_c;
    const float* const* rows = (const float* const*)scratch;
    const int64_t registers = pass_registers(t.width), pass = registers * LANES;
    for (int64_t lane = 0; lane < t.width && lane < left; lane += pass, t.weights += pass)
      conv_channels(s, epilogue, task, rows, &t, TILE_SUMS / registers, channel + lane, left - lane, first, out,
                    [&](int64_t ry, int64_t rx) { run_tile(registers, ry, rx, &t); });
  }
}
