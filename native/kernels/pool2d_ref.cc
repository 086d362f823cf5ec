// Pooling, as for-loops. Normative.
#include <math.h>

#include "pool2d_spans.h"

static float larger(float a, float b) { return b <= a ? a : a != a ? a : b; }

static void take(int maxima, int64_t channels, const float* v, float* y) {
  if (maxima)
    for (int64_t c = 0; c < channels; ++c) y[c] = larger(y[c], v[c]);
  else
    for (int64_t c = 0; c < channels; ++c) y[c] += v[c];
}

static void pixel(const PoolShape* s, const float* x, Span rows, Span columns, float* y) {
  const int maxima = of_maxima(s);
  for (int64_t c = 0; c < s->channels; ++c) y[c] = maxima ? -INFINITY : 0;
  for (int64_t iy = rows.begin; iy < rows.end; iy += rows.step)
    for (int64_t ix = columns.begin; ix < columns.end; ix += columns.step)
      take(maxima, s->channels, x + (iy * s->in_w + ix) * s->channels, y);
  if (maxima) return;
  const float divisor = (float)(rows.count * columns.count);
  for (int64_t c = 0; c < s->channels; ++c) y[c] /= divisor;
}

void pool2d_ref(POOL2D_ARGUMENTS) {
  for (int64_t oy = row0; oy < row1; ++oy)
    for (int64_t ox = 0; ox < shape->out_w; ++ox)
      pixel(shape, x, row_span(shape, oy), column_span(shape, ox), out + (oy * shape->out_w + ox) * shape->channels);
}
