// Element by element: the compiler makes vectors of these loops, at every level its own. The result may take the place
// of an operand (hence ivdep: nothing else overlaps).
#pragma once
#include "kernels.h"

static void elementwise(const Elementwise* e) {
  const float* x = (const float*)e->x;
  const uint8_t* bytes = (const uint8_t*)e->x;
  float* y = e->out;
  const int64_t channels = e->channels, count = e->rows * channels;
  switch (e->kind) {
    case ELEMENTWISE_ADD:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = x[i] + e->other[i];
      return;
    case ELEMENTWISE_RELU:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = x[i] < 0 ? 0 : x[i];
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
