// Mean over windows that divide the image into out_h x out_w parts, as evenly as whole pixels allow.
#include "kernels.h"

void adaptive_avg_pool2d_portable(const PoolShape* s, const float* x, float* out) {
  for (int64_t oy = 0; oy < s->out_h; ++oy) {
    const int64_t y0 = oy * s->in_h / s->out_h, y1 = ((oy + 1) * s->in_h + s->out_h - 1) / s->out_h;
    for (int64_t ox = 0; ox < s->out_w; ++ox) {
      const int64_t x0 = ox * s->in_w / s->out_w, x1 = ((ox + 1) * s->in_w + s->out_w - 1) / s->out_w;
      float* __restrict__ y = out + (oy * s->out_w + ox) * s->channels;
      for (int64_t c = 0; c < s->channels; ++c) y[c] = 0;
      for (int64_t iy = y0; iy < y1; ++iy) {
        for (int64_t ix = x0; ix < x1; ++ix) {
          const float* v = x + (iy * s->in_w + ix) * s->channels;
          for (int64_t c = 0; c < s->channels; ++c) y[c] += v[c];
        }
      }
      const float divisor = (float)((y1 - y0) * (x1 - x0));
      for (int64_t c = 0; c < s->channels; ++c) y[c] /= divisor;
    }
  }
}
