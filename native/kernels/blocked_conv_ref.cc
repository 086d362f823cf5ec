// Layers whose output channels share in sixteens where their weights are, as for-loops. Normative.
#include "pattern_ref.h"

void blocked_conv_ref(PATTERN_ARGUMENTS(BlockedWeights)) {
  (void)scratch;
  const Conv2dShape* s = shape;
  const float* image = x + task->image * s->in_h * s->in_w * s->in_c;
  const int64_t pixel = s->dilation_w * s->in_c;
  pattern_outputs(s, epilogue, out, task, [=](int64_t, int64_t block, int64_t lane, int64_t oy, int64_t ox) {
    float sum = 0;
    for (int64_t ky = 0; ky < s->kernel_h; ++ky) {
      const uint32_t* range = weights->starts + block * s->kernel_h + ky;
      for (uint32_t e = range[0]; e < range[1]; ++e) {
        const int64_t offset = weights->offsets[e];
        sum += weights->values[e * HALF_BLOCK + lane] *
               input_at(s, image, oy, ox, ky, offset / pixel, offset % pixel);
      }
    }
    return sum;
  });
}
