// How a convolution task is cut into tiles of one or two rows of output pixels. Include vec_<isa>.h first.
#pragma once
#include "conv2d_rows.h"
#include "tile.h"

// All output rows of the task, some registers of channels. `channel` is their first, `lanes` are valid, the input's
// channels start at `first`. A tile has at most `most` pixels; `run(ry, rx)` computes the one that `t` describes.
template <class Run>
static void conv_channels(const Conv2dShape* s, const Epilogue* e, const Conv2dTask* task, const float* const* rows,
                          Tile* t, int64_t most, int64_t channel, int64_t lanes, int64_t first, float* out,
                          const Run run) {
  const int64_t widest = most < MAX_RX_ONE ? most : MAX_RX_ONE;
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
      run(ry, x1 - x0);
    }
    oy += ry;
  }
}
