// Element by element: the compiler makes vectors of these loops, at every level its own. The result may take the place
// of an operand (hence ivdep: nothing else overlaps).
#pragma once
#include <math.h>
#include <string.h>

#include "kernels.h"

// exp(x) as `power` times (1 + `rest`), within two units in the last place, of sums and products that vectors have: with
// x = n ln 2 + r it is 2^n times a polynomial of r. Beyond -80 and 88, where floats end, x counts as these.
typedef struct {
  float power, rest;
} Exponential;

static inline Exponential exponential(float x) {
  const float limited = x < -80.0f ? -80.0f : x > 88.0f ? 88.0f : x;
  const float shifted = limited * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: its last bits are n
  const float n = shifted - 12582912.0f;
  const float r = limited - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, the first product exact
  const float high = 1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)));
  Exponential e;
  e.rest = r + r * r * (0.5f + r * (1.0f / 6 + r * high));
  uint32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;
  memcpy(&e.power, &bits, sizeof e.power);
  return e;
}

// exp(x) - 1, also near 0.
static inline float exp_minus_one(float x) {
  const Exponential e = exponential(x);
  return e.power * e.rest + (e.power - 1);
}

// The probability that a normally distributed number is below x: half of erfc(-x / sqrt(2)), by the Chebyshev fit of
// Press et al., "Numerical recipes", section 6.2, whose relative error is below 1.2e-7 everywhere.
static inline float normal_below(float x) {
  const float z = fabsf(x) * 0.707106781f, t = 1 / (1 + 0.5f * z);
  const float high = -1.13520398f + t * (1.48851587f + t * (-0.82215223f + t * 0.17087277f));
  const float low = 0.37409196f + t * (0.09678418f + t * (-0.18628806f + t * (0.27886807f + t * high)));
  const Exponential e = exponential(-z * z - 1.26551223f + t * (1.00002368f + t * low));
  const float tail = 0.5f * t * (e.power * e.rest + e.power);
  return x > 0 ? 1 - tail : tail;
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
    case ELEMENTWISE_ADD_ROWS:
      for (int64_t row = 0; row < e->rows; ++row, x += channels, y += channels) {
        const float shift = e->other[row];
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) y[c] = x[c] + shift;
      }
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
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = x[i] * normal_below(x[i]);
      return;
    case ELEMENTWISE_SQRT:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = sqrtf(x[i]);
      return;
    case ELEMENTWISE_RSQRT:
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) y[i] = 1 / sqrtf(x[i]);
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
