// Convolution as an implicit matrix product over padded input rows. Include vec_<isa>.h first.
#pragma once
#include <string.h>

#include "conv2d_rows.h"
#include "tile.h"

// What all tiles of a task have in common.
static Tile conv_tile(const Conv2dShape* s) {
  const int64_t channels = s->in_c / s->groups;
  // Taps side by side in memory are one long run: what makes images of 1 or 3 channels fast.
  const int merged = s->dilation_w == 1 && s->groups == 1;
  Tile t;
  memset(&t, 0, sizeof t);
  t.row_stride = s->stride_h;
  t.row_dilation = s->dilation_h;
  t.kernel_h = s->kernel_h;
  t.pixel_step = s->stride_w * s->in_c;
  t.segments = merged ? 1 : s->kernel_w;
  t.segment_step = s->dilation_w * s->in_c;
  t.run = merged ? s->kernel_w * channels : channels;
  t.out_row_step = s->out_w * s->out_c;
  t.out_pixel_step = s->out_c;
  return t;
}

// All output rows of the task, one block of channels. `channel` is the block's first, `lanes` are valid, the input's
// channels start at `first`.
static void conv_block(const Conv2dShape* s, const Epilogue* e, const Conv2dTask* task, const float* const* rows, Tile* t,
                       int64_t channel, int64_t lanes, int64_t first, float* out) {
  const int64_t registers = pass_registers(t->width), most = TILE_SUMS / registers;
  const int64_t widest = most < MAX_RX_ONE ? most : MAX_RX_ONE;
  const int64_t tiles = (s->out_w + widest - 1) / widest;
  t->lanes = lanes;
  t->epilogue.bias = advance(e->bias, channel);
  t->epilogue.scale = advance(e->scale, channel);
  t->epilogue.shift = advance(e->shift, channel);
  t->epilogue.relu = e->relu;
  const int64_t wider = (s->out_w + tiles - 1) / tiles;
  for (int64_t oy = task->row0; oy < task->row1;) {
    const int64_t ry = 2 * wider <= most && oy + 1 < task->row1 ? 2 : 1;
    t->rows = rows + (oy - task->row0) * s->stride_h;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t x0 = s->out_w * i / tiles, x1 = s->out_w * (i + 1) / tiles;
      const int64_t position = ((task->image * s->out_h + oy) * s->out_w + x0) * s->out_c + channel;
      t->offset = first + x0 * t->pixel_step;
      t->out = out + position;
      t->epilogue.residual = advance(e->residual, position);
      run_tile(registers, ry, x1 - x0, t);
    }
    oy += ry;
  }
}

static void conv2d(CONV2D_ARGUMENTS) {
  const Conv2dShape* s = shape;
  const int64_t in_c = s->in_c / s->groups, out_c = s->out_c / s->groups;
  const int64_t taps = s->kernel_h * s->kernel_w * in_c;
  prepare_rows(s, x + task->image * s->in_h * s->in_w * s->in_c, task, scratch);
  Tile t = conv_tile(s);
  for (int64_t b = task->block0; b < task->block1; ++b) {
    const int64_t group = b / block_count(out_c), block = b % block_count(out_c);
    t.width = block_width(out_c, block);
    const float* w = weights + (group * padded_channels(out_c) + block * BLOCK) * taps;
    const int64_t pass = pass_registers(t.width) * LANES;
    for (int64_t lane = 0; lane < t.width && block * BLOCK + lane < out_c; lane += pass) {
      t.weights = w + lane;
      conv_block(s, epilogue, task, (const float* const*)scratch, &t, group * out_c + block * BLOCK + lane,
                 out_c - block * BLOCK - lane, group * in_c, out);
    }
  }
}
