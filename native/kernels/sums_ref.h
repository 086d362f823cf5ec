// The normative end of every exact sum; see SumEpilogue in codes.h.
#pragma once
#include "codes.h"
#include "epilogue_ref.h"

// What follows the multipliers.
static inline float finish_sum(const SumEpilogue* e, float y, int64_t channel, int64_t position) {
  y = finish(&e->rest, y, channel, position);
  if (e->prelu.slope) y = prelu(&e->prelu, y, channel);
  if (!e->limited) return y;
  const float raised = y < e->low ? e->low : y;
  return raised > e->high ? e->high : raised;
}

// second: the sum over the weights -1, if there are two magnitudes. position: index in the output.
static inline float sum_value(const SumEpilogue* e, int32_t sum, int32_t second, int64_t channel, int64_t position) {
  float y = (float)sum;
  if (e->multiplier) y *= e->multiplier[channel];
  if (e->negative) y -= (float)second * e->negative[channel];
  return finish_sum(e, y, channel, position);
}
