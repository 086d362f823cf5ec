// Maximum over windows; the padding counts as -inf and NaN wins, as in PyTorch.
#include <math.h>

#include "kernels.h"

void max_pool2d_portable(const PoolShape* s, const float* x, float* out) {
  for (int64_t oy = 0; oy < s->out_h; ++oy) {
    for (int64_t ox = 0; ox < s->out_w; ++ox) {
      float* __restrict__ y = out + (oy * s->out_w + ox) * s->channels;
      for (int64_t c = 0; c < s->channels; ++c) y[c] = -INFINITY;
      for (int64_t ky = 0; ky < s->kernel_h; ++ky) {
        const int64_t iy = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
        if (iy < 0 || iy >= s->in_h) continue;
        for (int64_t kx = 0; kx < s->kernel_w; ++kx) {
          const int64_t ix = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
          if (ix < 0 || ix >= s->in_w) continue;
          const float* v = x + (iy * s->in_w + ix) * s->channels;
          for (int64_t c = 0; c < s->channels; ++c) y[c] = v[c] <= y[c] ? y[c] : y[c] != y[c] ? y[c] : v[c];
        }
      }
    }
  }
}
