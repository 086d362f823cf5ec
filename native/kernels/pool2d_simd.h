// Pooling: channels in the lanes, up to four registers at once. Include vec_<isa>.h first.
#pragma once
#include <math.h>

#include "pool2d_spans.h"

namespace {  // or the linker might take one instruction set's for all

// What has been seen of a window: the largest, or the sum in doubles.
template <int MAX>
struct Pooled;
template <>
struct Pooled<1> {
  vec value = broadcast(-INFINITY);
  void take(vec x) { value = maximum_or_nan(value, x); }
  vec of(double) const { return value; }
};
template <>
struct Pooled<0> {
  wide value = wide_zero();
  void take(vec x) { value = wide_add(value, x); }
  vec of(double count) const { return wide_divide(value, count); }
};

}  // namespace

// NV registers of channels of one output pixel, of which `lanes` count. x: the image from these channels on.
template <int NV, int MAX>
static inline void pool_channels(const PoolShape* s, const float* x, Span rows, Span columns, int64_t lanes,
                                 float* out) {
  Pooled<MAX> result[NV];
  for (int64_t y = rows.begin; y < rows.end; y += rows.step) {
    for (int64_t i = columns.begin; i < columns.end; i += columns.step) {
      const float* p = x + (y * s->in_w + i) * s->channels;
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) result[v].take(NV > 1 ? load(p + v * LANES) : load_first(p, lanes));
    }
  }
  const double count = (double)(rows.count * columns.count);
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v) {
    if (NV > 1)
      store(out + v * LANES, result[v].of(count));
    else
      store_first(out, result[v].of(count), lanes);
  }
}

// How many windows from column ox on differ only in where they are, side by side: of one channel, they are lanes too.
static inline int64_t windows_alike(const PoolShape* s, int64_t ox) {
  const int64_t end = s->in_w + s->pad_w - (s->kernel_w - 1) * s->dilation_w, most = LANES;
  if (of_parts(s) || s->stride_w != 1 || ox < s->pad_w || ox >= end) return 1;
  const int64_t inside = (end < s->out_w ? end : s->out_w) - ox;
  return inside < most ? inside : most;
}

template <int MAX>
static void pool_rows(POOL2D_ARGUMENTS) {
  const PoolShape* s = shape;
  for (int64_t oy = row0; oy < row1; ++oy) {
    const Span rows = row_span(s, oy);
    for (int64_t ox = 0, alike = 1; ox < s->out_w; ox += alike) {
      const Span columns = column_span(s, ox);
      float* y = out + (oy * s->out_w + ox) * s->channels;
      if (s->channels == 1) {
        alike = windows_alike(s, ox);
        pool_channels<1, MAX>(s, x, rows, columns, alike, y);
        continue;
      }
      int64_t c = 0;
      for (; c + 4 * LANES <= s->channels; c += 4 * LANES)
        pool_channels<4, MAX>(s, x + c, rows, columns, 4 * LANES, y + c);
      for (; c < s->channels; c += LANES) pool_channels<1, MAX>(s, x + c, rows, columns, s->channels - c, y + c);
    }
  }
}

static void pool2d(POOL2D_ARGUMENTS) {
  if (of_maxima(shape)) return pool_rows<1>(shape, x, out, row0, row1);
  pool_rows<0>(shape, x, out, row0, row1);
}
