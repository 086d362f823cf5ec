// Pooling, as for-loops; means are sums in doubles, rounded once. Normative.
#include <math.h>

#include "pool2d_spans.h"

static float larger(float a, float b) { return b <= a ? a : a != a ? a : b; }

static void largest(const PoolShape* s, const float* x, Span rows, Span columns, float* y) {
  for (int64_t c = 0; c < s->channels; ++c) y[c] = -INFINITY;
  for (int64_t iy = rows.begin; iy < rows.end; iy += rows.step)
    for (int64_t ix = columns.begin; ix < columns.end; ix += columns.step)
      for (int64_t c = 0; c < s->channels; ++c) y[c] = larger(y[c], x[(iy * s->in_w + ix) * s->channels + c]);
}

static void mean(const PoolShape* s, const float* x, Span rows, Span columns, float* y) {
  const double count = (double)(rows.count * columns.count);
  for (int64_t c = 0; c < s->channels; ++c) {
    double sum = 0;
    for (int64_t iy = rows.begin; iy < rows.end; iy += rows.step)
      for (int64_t ix = columns.begin; ix < columns.end; ix += columns.step)
        sum += x[(iy * s->in_w + ix) * s->channels + c];
    y[c] = (float)(sum / count);
  }
}

void pool2d_ref(POOL2D_ARGUMENTS) {
  for (int64_t oy = row0; oy < row1; ++oy)
    for (int64_t ox = 0; ox < shape->out_w; ++ox)
      (of_maxima(shape) ? largest : mean)(shape, x, row_span(shape, oy), column_span(shape, ox),
                                          out + (oy * shape->out_w + ox) * shape->channels);
}
