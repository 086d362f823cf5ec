// The end of the sums of neighbouring channels; see Epilogue in kernels.h. Include vec_<isa>.h first.
#pragma once
#include "kernels.h"

// The first `lanes` lanes of y are sums of the channels from `channel` on; position: where the first of them lies in
// the output, for the residual.
static inline vec finish(const Epilogue* e, vec y, int64_t channel, int64_t position, int64_t lanes) {
  if (e->bias) y = add(y, load_first(e->bias + channel, lanes));
  if (e->scale) {
    y = mul(y, load_first(e->scale + channel, lanes));
    y = add(y, load_first(e->shift + channel, lanes));
  }
  if (e->residual) y = add(y, load_first(e->residual + position, lanes));
  return e->relu ? maximum(zero(), y) : y;
}
