// What training asks of tensors whose channels are innermost, in one pass each, for float32 and bfloat16: plain loops
// that the compiler turns into vectors of whatever instruction set the including file is built for.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

namespace {  // or the linker might take one instruction set's for all

const int64_t BLOCK = 16;  // channels at once

inline float up(float x) { return x; }
inline float up(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}
inline void down(float x, float* y) { *y = x; }
inline void down(float x, uint16_t* y) {  // ties to even
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  *y = (uint16_t)(x != x ? 0x7fc0 : rounded);
}

template <class T>
void signs(int64_t count, const T* x, T* y) {
  for (int64_t i = 0; i < count; ++i) down(up(x[i]) >= 0 ? 1.0f : -1.0f, y + i);
}

template <class T>
void signs_back(int64_t count, int curve, const T* x, const T* g, T* dx) {
  if (curve)
    for (int64_t i = 0; i < count; ++i) {
      const float slope = 2 - 2 * fabsf(up(x[i]));
      down((slope > 0 ? slope : 0) * up(g[i]), dx + i);
    }
  else
    for (int64_t i = 0; i < count; ++i) down(fabsf(up(x[i])) < 1 ? up(g[i]) : 0.0f, dx + i);
}

// Channels c .. c + n of all pixels, n at most BLOCK; `body` takes (place in the block, index).
template <class Body>
inline void over_block(const ChannelShape* s, int64_t c, Body body) {
  const int64_t n = s->channels - c < BLOCK ? s->channels - c : BLOCK;
  if (n == BLOCK)
    for (int64_t p = 0; p < s->pixels; ++p)
      for (int64_t j = 0; j < BLOCK; ++j) body(j, p * s->channels + c + j);
  else
    for (int64_t p = 0; p < s->pixels; ++p)
      for (int64_t j = 0; j < n; ++j) body(j, p * s->channels + c + j);
}

inline void first(const float* from, int64_t left, float* to) {
  for (int64_t j = 0; j < BLOCK; ++j) to[j] = j < left ? from[j] : 0;
}

template <class T>
void shifted(const ChannelShape* s, const T* x, const float* before, T* y) {
  for (int64_t c = 0; c < s->channels; c += BLOCK) {
    float b[BLOCK];
    first(before + c, s->channels - c, b);
    over_block(s, c, [&](int64_t j, int64_t i) { down(up(x[i]) - b[j], y + i); });
  }
}

template <class T>
void sums(const ChannelShape* s, const T* x, float* sum) {
  for (int64_t c = 0; c < s->channels; c += BLOCK) {
    float total[BLOCK] = {0};
    over_block(s, c, [&](int64_t j, int64_t i) { total[j] += up(x[i]); });
    for (int64_t j = 0; j < BLOCK && c + j < s->channels; ++j) sum[c + j] = total[j];
  }
}

template <class T>
void rprelu(const ChannelShape* s, const T* x, const float* before, const float* slope, const float* after, T* y) {
  for (int64_t c = 0; c < s->channels; c += BLOCK) {
    float b[BLOCK], a[BLOCK], e[BLOCK];
    const int64_t left = s->channels - c;
    first(before + c, left, b), first(slope + c, left, a), first(after + c, left, e);
    over_block(s, c, [&](int64_t j, int64_t i) {
      const float d = up(x[i]) - b[j];
      down((d > 0 ? d : a[j] * d) + e[j], y + i);
    });
  }
}

// sum: those of dx, of what belongs to the slope, and of g, one behind the other.
template <class T>
void rprelu_back(const ChannelShape* s, const T* x, const T* g, const float* before, const float* slope, T* dx,
                 float* sum) {
  for (int64_t c = 0; c < s->channels; c += BLOCK) {
    float b[BLOCK], a[BLOCK], by_x[BLOCK] = {0}, by_slope[BLOCK] = {0}, all[BLOCK] = {0};
    const int64_t left = s->channels - c;
    first(before + c, left, b), first(slope + c, left, a);
    over_block(s, c, [&](int64_t j, int64_t i) {
      const float d = up(x[i]) - b[j], gradient = up(g[i]), through = d > 0 ? gradient : a[j] * gradient;
      down(through, dx + i);
      by_x[j] += through;
      by_slope[j] += d > 0 ? 0 : d * gradient;
      all[j] += gradient;
    });
    for (int64_t j = 0; j < BLOCK && j < left; ++j) {
      sum[c + j] = by_x[j];
      sum[s->channels + c + j] = by_slope[j];
      sum[2 * s->channels + c + j] = all[j];
    }
  }
}

template <class T>
void run(const TrainingCall* call) {
  const ChannelShape* s = &call->shape;
  const int64_t count = s->pixels * s->channels;
  const T *x = (const T*)call->x, *g = (const T*)call->gradient;
  T* y = (T*)call->result;
  switch (call->operation) {
    case TRAIN_SIGN: return signs(count, x, y);
    case TRAIN_SIGN_BACK: return signs_back(count, call->curve, x, g, y);
    case TRAIN_SHIFT: return shifted(s, x, call->before, y);
    case TRAIN_SUM: return sums(s, x, call->sums);
    case TRAIN_RPRELU: return rprelu(s, x, call->before, call->slope, call->after, y);
    case TRAIN_RPRELU_BACK: return rprelu_back(s, x, g, call->before, call->slope, y, call->sums);
  }
}

}  // namespace
