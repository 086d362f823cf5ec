// Element by element: the compiler makes vectors of these loops, at every level its own. The result may take the place
// of an operand (hence ivdep: nothing else overlaps).
#pragma once
#include <math.h>

#include "kernels.h"

static void elementwise(const Elementwise* e) {
  const float* x = (const float*)e->x;
  const uint8_t* bytes = (const uint8_t*)e->x;
  float* y = e->out;
  const int64_t channels = e->channels, count = e->rows * channels;
  const Prelu p = e->prelu;
  switch (e->kind) {
    case ELEMENTWISE_ADD:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = x[i] + e->other[i];
      return;
    case ELEMENTWISE_MUL:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = x[i] * e->other[i];
      return;
    case ELEMENTWISE_MUL_ROWS:
      for (int64_t row = 0; row < e->rows; ++row, x += channels, y += channels) {
        const float factor = e->other[row];
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) y[c] = x[c] * factor;
      }
      return;
    case ELEMENTWISE_ABS:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = fabsf(x[i]);
      return;
    case ELEMENTWISE_CLAMP: {
      const float low = e->low, high = e->high;
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        const float raised = x[i] < low ? low : x[i];
        y[i] = raised > high ? high : raised;
      }
      return;
    }
    case ELEMENTWISE_PRELU:
      for (int64_t row = 0; row < e->rows; ++row, x += channels, y += channels) {
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) {
          const float z = x[c] * p.scale[c] + p.shift[c];
          y[c] = (z >= 0 ? z : z * p.slope[c]) * p.after_scale[c] + p.after_shift[c];
        }
      }
      return;
    case ELEMENTWISE_AFFINE:
      for (int64_t row = 0; row < e->rows; ++row, x += channels, y += channels) {
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) y[c] = x[c] * e->scale[c] + e->shift[c];
      }
      return;
    default:
      for (int64_t row = 0; row < e->rows; ++row, bytes += channels, y += channels) {
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) y[c] = (float)bytes[c] / 255.0f * e->scale[c] + e->shift[c];
      }
  }
}
