// The normative end of every sum; see Epilogue in kernels.h.
#pragma once
#include "kernels.h"

static inline float prelu(const Prelu* p, float value, int64_t channel) {
  value *= p->scale[channel];
  value += p->shift[channel];
  if (!(value >= 0)) value *= p->slope[channel];
  value *= p->after_scale[channel];
  return value + p->after_shift[channel];
}

// position: index in the output, for the residual.
static inline float finish(const Epilogue* e, float value, int64_t channel, int64_t position) {
  if (e->bias) value += e->bias[channel];
  if (e->scale) {
    value *= e->scale[channel];
    value += e->shift[channel];
  }
  if (e->residual) value += e->residual[position];
  if (e->relu && value < 0) value = 0;
  return value;
}
