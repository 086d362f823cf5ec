// Which pixels a pooling window covers.
#pragma once
#include "kernels.h"

// Along one axis: pixels begin, begin + step, ... before end, all inside the image. `count`: what a mean divides by.
typedef struct {
  int64_t begin, end, step, count;
} Span;

static inline int of_parts(const PoolShape* s) { return s->kind == POOL_ADAPTIVE_MEAN || s->kind == POOL_ADAPTIVE_MAX; }
static inline int of_maxima(const PoolShape* s) { return s->kind == POOL_MAX || s->kind == POOL_ADAPTIVE_MAX; }

static inline Span window_span(const PoolShape* s, int64_t o, int64_t kernel, int64_t stride, int64_t pad,
                               int64_t dilation, int64_t size) {
  Span span = {o * stride - pad, o * stride - pad + (kernel - 1) * dilation + 1, dilation, 0};
  // Where a window hangs over the padded image (ceil mode), only what lies inside that counts.
  span.count = (span.end < size + pad ? span.end : size + pad) - span.begin;
  if (span.begin < 0) span.begin += (-span.begin + dilation - 1) / dilation * dilation;
  if (span.end > size) span.end = size;
  if (!s->count_include_pad) span.count = span.end - span.begin;
  return span;
}

static inline Span part_span(int64_t o, int64_t parts, int64_t size) {
  Span span = {o * size / parts, ((o + 1) * size + parts - 1) / parts, 1, 0};
  span.count = span.end - span.begin;
  return span;
}

static inline Span row_span(const PoolShape* s, int64_t oy) {
  if (of_parts(s)) return part_span(oy, s->out_h, s->in_h);
  return window_span(s, oy, s->kernel_h, s->stride_h, s->pad_h, s->dilation_h, s->in_h);
}
static inline Span column_span(const PoolShape* s, int64_t ox) {
  if (of_parts(s)) return part_span(ox, s->out_w, s->in_w);
  return window_span(s, ox, s->kernel_w, s->stride_w, s->pad_w, s->dilation_w, s->in_w);
}
