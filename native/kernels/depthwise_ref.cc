// Depthwise convolution, as for-loops. Normative.
#include "epilogue_ref.h"
#include "kernels.h"

void depthwise_ref(CONV2D_ARGUMENTS) {
  (void)scratch;
  const Conv2dShape* s = shape;
  const float* image = x + task->image * s->in_h * s->in_w * s->in_c;
  const int64_t c0 = task->block0 * BLOCK;
  const int64_t c1 = task->block1 * BLOCK < s->out_c ? task->block1 * BLOCK : s->out_c;
  for (int64_t oy = task->row0; oy < task->row1; ++oy) {
    for (int64_t ox = 0; ox < s->out_w; ++ox) {
      for (int64_t c = c0; c < c1; ++c) {
        float sum = 0;
        for (int64_t ky = 0; ky < s->kernel_h; ++ky) {
          for (int64_t kx = 0; kx < s->kernel_w; ++kx) {
            const int64_t iy = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
            const int64_t ix = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
            if (iy < 0 || iy >= s->in_h || ix < 0 || ix >= s->in_w) continue;  // the padding is zero
            const float w = weights[(ky * s->kernel_w + kx) * padded_channels(s->out_c) + c];
            sum += image[(iy * s->in_w + ix) * s->in_c + c] * w;
          }
        }
        const int64_t position = ((task->image * s->out_h + oy) * s->out_w + ox) * s->out_c + c;
        out[position] = finish(epilogue, sum, c, position);
      }
    }
  }
}
