// Element by element: the compiler makes vectors of these loops, at every level its own. The result may take the place
// of an operand (hence ivdep: nothing else overlaps).
#pragma once
#include <math.h>
#include <string.h>

#include "kernels.h"

// exp(x) - 1 within two units in the last place, as sums and products that vectors have: with x = n ln 2 + r it is
// 2^n (exp(r) - 1) + (2^n - 1), the bracket a polynomial. Beyond -80 and 88, where floats end, x counts as these.
static inline float exp_minus_one(float x) {
  const float limited = x < -80.0f ? -80.0f : x > 88.0f ? 88.0f : x;
  const float shifted = limited * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: its last bits are n
  const float n = shifted - 12582912.0f;
  const float r = limited - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, the first product exact
  const float high = 1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)));
  const float bracket = r + r * r * (0.5f + r * (1.0f / 6 + r * high));
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return power * bracket + (power - 1);
}

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
    case ELEMENTWISE_SIGMOID:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = 1 / (2 + exp_minus_one(-x[i]));
      return;
    case ELEMENTWISE_TANH:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        const float t = exp_minus_one(2 * x[i]);
        y[i] = t / (t + 2);
      }
      return;
    case ELEMENTWISE_ELU: {
      const float alpha = e->low;
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        const float below = alpha * exp_minus_one(x[i] > 0 ? 0 : x[i]);
        y[i] = x[i] > 0 ? x[i] : below;
      }
      return;
    }
    case ELEMENTWISE_GELU:
      for (int64_t i = 0; i < count; ++i) y[i] = 0.5f * x[i] * erfcf(x[i] * -0.707106781f);
      return;
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
