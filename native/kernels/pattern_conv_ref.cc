// Layers with few weights in every window of inputs, as for-loops. Normative.
#include "pattern_ref.h"

static int64_t place(const PatternWeights* w, int64_t window, int64_t lane, int64_t slot) {
  const uint8_t* places = w->places + (window * HALF_BLOCK + lane) * w->place_bytes;
  return places[slot / 2] >> (slot % 2 * 4) & 15;
}

void pattern_conv_ref(PATTERN_ARGUMENTS(PatternWeights)) {
  (void)scratch;
  const Conv2dShape* s = shape;
  const int64_t in_c = s->in_c / s->groups, taps = s->kernel_h * s->kernel_w;
  const float* image = x + task->image * s->in_h * s->in_w * s->in_c;
  pattern_outputs(s, epilogue, out, task, [=](int64_t group, int64_t block, int64_t lane, int64_t oy, int64_t ox) {
    float sum = 0;
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t i = 0; i < weights->windows; ++i) {
        const int64_t window = (block * taps + tap) * weights->windows + i;
        const float* values = weights->values + window * weights->slots * HALF_BLOCK + lane;
        for (int64_t slot = 0; slot < weights->slots; ++slot) {
          const int64_t c = group * in_c + i * PATTERN_WINDOW + place(weights, window, lane, slot);
          sum += values[slot * HALF_BLOCK] * input_at(s, image, oy, ox, tap / s->kernel_w, tap % s->kernel_w, c);
        }
      }
    return sum;
  });
}
