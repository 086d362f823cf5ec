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
  t.pixel_step = s->stride_w * s->in_c;
  t.segments = merged ? 1 : s->kernel_w;
  t.segment_step = s->dilation_w * s->in_c;
  t.run = merged ? s->kernel_w * channels : channels;
  t.triple = s->kernel_w == TRIPLE && s->stride_w == 1 && s->dilation_w == 1;
  t.out_row_step = s->out_w * s->out_c;
  t.out_pixel_step = s->out_c;
  return t;
}

// All output rows of the task, some registers of channels. `channel` is their first, `lanes` are valid, the input's
// channels start at `first`.
static void conv_channels(const Conv2dShape* s, const Epilogue* e, const Conv2dTask* task, const float* const* rows,
                          Tile* t, int64_t registers, int64_t channel, int64_t lanes, int64_t first, float* out) {
  const int64_t most = TILE_SUMS / registers, widest = most < MAX_RX_ONE ? most : MAX_RX_ONE;
  const int64_t tiles = (s->out_w + widest - 1) / widest, wider = (s->out_w + tiles - 1) / tiles;
  t->lanes = lanes;
  t->epilogue.bias = advance(e->bias, channel);
  t->epilogue.scale = advance(e->scale, channel);
  t->epilogue.shift = advance(e->shift, channel);
  t->epilogue.relu = e->relu;
  for (int64_t oy = task->row0; oy < task->row1;) {
    const KernelRows own = kernel_rows(s, oy), next = kernel_rows(s, oy + 1);
    const int like = own.begin == next.begin && own.end == next.end;
    const int64_t ry = 2 * wider <= most && oy + 1 < task->row1 && like ? 2 : 1;
    t->rows = rows + (oy - task->row0) * s->stride_h;
    t->ky0 = own.begin;
    t->ky1 = own.end;
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
      conv_channels(s, epilogue, task, rows, &t, registers, channel + lane, left - lane, first, out);
  }
}
