// Local response norm and group norm: the compiler makes vectors of these loops over channels, at every level its own.
#pragma once
#include <math.h>

#include "kernels.h"

static void response_norm(const ChannelNorm* norm, const float* x, float* y, float* scratch) {
  const int64_t channels = norm->channels, size = norm->size;
  const float alpha = norm->alpha, beta = norm->beta, bias = norm->bias;
  float* squares = scratch;  // with the zeros beside the channels
  float* sums = scratch + channels + size;
  for (int64_t i = 0; i < channels + size; ++i) squares[i] = 0;
  for (int64_t pixel = 0; pixel < norm->pixels; ++pixel, x += channels, y += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      squares[size / 2 + c] = x[c] * x[c];
      sums[c] = 0;
    }
    for (int64_t tap = 0; tap < size; ++tap)
#pragma GCC ivdep
      for (int64_t c = 0; c < channels; ++c) sums[c] += squares[c + tap];
    if (beta == 0.75f) {
#pragma GCC ivdep
      for (int64_t c = 0; c < channels; ++c) {
        const float root = sqrtf(bias + alpha * sums[c]);
        y[c] = x[c] / (root * sqrtf(root));
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) y[c] = x[c] / powf(bias + alpha * sums[c], beta);
    }
  }
}

// Sums per channel become those of each group: the mean of all its numbers.
static void share_means(const ChannelNorm* norm, double* sums) {
  const int64_t width = norm->channels / norm->size;
  for (int64_t group = 0; group < norm->size; ++group, sums += width) {
    double total = 0;
    for (int64_t c = 0; c < width; ++c) total += sums[c];
    const double mean = total / (double)(norm->pixels * width);
    for (int64_t c = 0; c < width; ++c) sums[c] = mean;
  }
}

static void group_norm(const ChannelNorm* norm, const float* x, float* y, double* scratch) {
  const int64_t channels = norm->channels, pixels = norm->pixels;
  double *mean = scratch, *factor = scratch + channels;
  for (int64_t c = 0; c < 2 * channels; ++c) scratch[c] = 0;
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) mean[c] += x[pixel * channels + c];
  share_means(norm, mean);
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      const double difference = x[pixel * channels + c] - mean[c];
      factor[c] += difference * difference;
    }
  share_means(norm, factor);
  for (int64_t c = 0; c < channels; ++c) factor[c] = 1 / sqrt(factor[c] + (double)norm->bias);
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c)
      y[pixel * channels + c] = (float)((x[pixel * channels + c] - mean[c]) * factor[c]);
}

static void channel_norm(CHANNEL_NORM_ARGUMENTS) {
  if (norm->kind == NORM_RESPONSE) return response_norm(norm, x, out, (float*)scratch);
  group_norm(norm, x, out, (double*)scratch);
}
