// What the normative kernels of pattern.h share: for-loops over outputs.
#pragma once
#include "epilogue_ref.h"
#include "pattern.h"

// The input at a tap of output pixel (oy, ox), `channel` of the image; the padding is zero.
static inline float input_at(const Conv2dShape* s, const float* image, int64_t oy, int64_t ox, int64_t ky, int64_t kx,
                             int64_t channel) {
  const int64_t iy = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
  const int64_t ix = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
  if (iy < 0 || iy >= s->in_h || ix < 0 || ix >= s->in_w) return 0;
  return image[(iy * s->in_w + ix) * s->in_c + channel];
}

// sum(group, block, lane, oy, ox): of an output channel, `block` counted over all groups.
template <class Sum>
static void pattern_outputs(const Conv2dShape* s, const Epilogue* e, float* out, const Conv2dTask* task,
                            const Sum sum) {
  const int64_t out_c = s->out_c / s->groups, blocks = pattern_blocks(out_c);
  for (int64_t b = task->block0; b < task->block1; ++b)
    for (int64_t lane = 0; lane < HALF_BLOCK && b % blocks * HALF_BLOCK + lane < out_c; ++lane)
      for (int64_t oy = task->row0; oy < task->row1; ++oy)
        for (int64_t ox = 0; ox < s->out_w; ++ox) {
          const int64_t channel = b / blocks * out_c + b % blocks * HALF_BLOCK + lane;
          const int64_t position = ((task->image * s->out_h + oy) * s->out_w + ox) * s->out_c + channel;
          out[position] = finish(e, sum(b / blocks, b, lane, oy, ox), channel, position);
        }
}
