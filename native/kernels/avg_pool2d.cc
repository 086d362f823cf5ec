// Mean over windows. Where a window hangs over the padded image (ceil mode), only what lies inside that counts.
#include "kernels.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// What one axis of a window covers: pixels [begin, end), and `padded` positions when the padding counts too.
typedef struct {
  int64_t begin, end, padded;
} Span;

static Span window(int64_t o, int64_t kernel, int64_t stride, int64_t pad, int64_t size) {
  const int64_t begin = o * stride - pad, end = least(begin + kernel, size + pad);
  Span s = {begin < 0 ? 0 : begin, least(end, size), end - begin};
  return s;
}

void avg_pool2d_portable(const PoolShape* s, const float* x, float* out) {
  for (int64_t oy = 0; oy < s->out_h; ++oy) {
    for (int64_t ox = 0; ox < s->out_w; ++ox) {
      const Span rows = window(oy, s->kernel_h, s->stride_h, s->pad_h, s->in_h);
      const Span cols = window(ox, s->kernel_w, s->stride_w, s->pad_w, s->in_w);
      float* __restrict__ y = out + (oy * s->out_w + ox) * s->channels;
      for (int64_t c = 0; c < s->channels; ++c) y[c] = 0;
      for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
        for (int64_t ix = cols.begin; ix < cols.end; ++ix) {
          const float* v = x + (iy * s->in_w + ix) * s->channels;
          for (int64_t c = 0; c < s->channels; ++c) y[c] += v[c];
        }
      }
      const int64_t inside = (rows.end - rows.begin) * (cols.end - cols.begin);
      const float divisor = (float)(s->count_include_pad ? rows.padded * cols.padded : inside);
      for (int64_t c = 0; c < s->channels; ++c) y[c] /= divisor;
    }
  }
}
