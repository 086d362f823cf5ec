// Depthwise convolution: channels in the lanes, a few pixels of a row at once so that weights are loaded once for all.
// Include vec_<isa>.h first.
#pragma once
#include "conv2d_rows.h"
#include "epilogue_simd.h"

enum { PIXELS = 8 };

// RX pixels of one output row, `lanes` channels from c. rows: as the first of these pixels needs them for ky = 0.
template <int RX>
static inline void depthwise_tile(const Conv2dShape* s, const float* weights, const float* const* rows, int64_t x0,
                                  int64_t c, int64_t lanes, vec* sums) {
  const int64_t step = s->stride_w * s->in_c, padded = padded_channels(s->out_c);
  const float* w = weights + c;
#pragma GCC unroll 8
  for (int m = 0; m < RX; ++m) sums[m] = zero();
  for (int64_t ky = 0; ky < s->kernel_h; ++ky) {
    const float* v = rows[ky * s->dilation_h] + x0 * step + c;
    for (int64_t kx = 0; kx < s->kernel_w; ++kx) {
      const vec weight = load(w);
#pragma GCC unroll 8
      for (int m = 0; m < RX; ++m) sums[m] = fma(weight, load_first(v + m * step, lanes), sums[m]);
      w += padded;
      v += s->dilation_w * s->in_c;
    }
  }
}

static void depthwise(CONV2D_ARGUMENTS) {
  const Conv2dShape* s = shape;
  prepare_rows(s, x + task->image * s->in_h * s->in_w * s->in_c, task, scratch);
  const int64_t c1 = task->block1 * BLOCK < s->out_c ? task->block1 * BLOCK : s->out_c;
  for (int64_t oy = task->row0; oy < task->row1; ++oy) {
    const float* const* rows = (const float* const*)scratch + (oy - task->row0) * s->stride_h;
    for (int64_t c = task->block0 * BLOCK; c < c1; c += LANES) {
      const int64_t lanes = c1 - c < LANES ? c1 - c : LANES;
      for (int64_t ox = 0; ox < s->out_w;) {
        vec sums[PIXELS];
        const int64_t pixels = s->out_w - ox >= PIXELS ? PIXELS : 1;
        if (pixels == PIXELS)
          depthwise_tile<PIXELS>(s, weights, rows, ox, c, lanes, sums);
        else
          depthwise_tile<1>(s, weights, rows, ox, c, lanes, sums);
        for (int64_t m = 0; m < pixels; ++m, ++ox) {
          const int64_t position = ((task->image * s->out_h + oy) * s->out_w + ox) * s->out_c + c;
          store_first(out + position, finish(epilogue, sums[m], c, position, lanes), lanes);
        }
      }
    }
  }
}
