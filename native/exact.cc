#include "exact.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/sums_ref.h"
#include "parallel.h"

namespace {

// Adding and subtracting it rounds what is below 2^22 to the nearest whole number, ties to even; 0.0 for -0.0.
constexpr float kRounder = 12582912.0f;

int64_t pixels(const Conv2dShape& s) { return s.out_h * s.out_w; }

}  // namespace

SignOp::SignOp(int64_t count) : Operation({count * 4}, {count * 4}), count_(count) {}

void SignOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const auto* x = static_cast<const float*>(inputs[0]);
  auto* out = static_cast<float*>(outputs[0]);
  parallel_for(batch, threads, [&](int64_t image) {
    for (int64_t i = image * count_; i < (image + 1) * count_; ++i) out[i] = x[i] >= 0 ? 1.0f : -1.0f;
  });
}

QuantizeOp::QuantizeOp(int64_t pixels, Channels channels)
    : Operation({pixels * static_cast<int64_t>(channels.scale.size()) * 4},
                {pixels * static_cast<int64_t>(channels.scale.size()) * 4}),
      pixels_(pixels),
      channels_(std::move(channels)) {}

void QuantizeOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const auto* x = static_cast<const float*>(inputs[0]);
  auto* out = static_cast<float*>(outputs[0]);
  const auto channels = static_cast<int64_t>(channels_.scale.size());
  const float *scale = channels_.scale.data(), *reciprocal = channels_.reciprocal.data();
  const float *low = channels_.low.data(), *high = channels_.high.data();
  parallel_for(batch, threads, [&](int64_t image) {
    for (int64_t pixel = image * pixels_; pixel < (image + 1) * pixels_; ++pixel)
      for (int64_t c = 0; c < channels; ++c) {
        const float scaled = x[pixel * channels + c] * reciprocal[c];
        const float above = scaled > low[c] ? scaled : low[c];  // NaN: low
        const float within = above < high[c] ? above : high[c];
        out[pixel * channels + c] = ((within + kRounder) - kRounder) * scale[c];
      }
  });
}

ExactConvOp::ExactConvOp(const Conv2dShape& shape, float reciprocal, const int8_t* weights, int32_t padding,
                         const Finish& finish)
    : Operation(finish.input_bytes(shape.in_h * shape.in_w * shape.in_c * 4, pixels(shape)),
                {pixels(shape) * shape.out_c * 4}),
      shape_(shape),
      reciprocal_(reciprocal),
      padding_(padding),
      finish_(finish) {
  const int64_t inputs = shape.in_c / shape.groups, taps = shape.kernel_h * shape.kernel_w;
  weights_.resize(shape.out_c * taps * inputs);
  for (int64_t o = 0; o < shape.out_c; ++o)
    for (int64_t c = 0; c < inputs; ++c)
      for (int64_t tap = 0; tap < taps; ++tap) weights_[(o * taps + tap) * inputs + c] = *weights++;
}

float ExactConvOp::output(const SumEpilogue& e, const float* image, int64_t y, int64_t x, int64_t channel) const {
  const Conv2dShape& s = shape_;
  const int64_t inputs = s.in_c / s.groups, first = channel / (s.out_c / s.groups) * inputs;
  const int8_t* weight = weights_.data() + channel * s.kernel_h * s.kernel_w * inputs;
  int64_t positive = 0, negative = 0;  // sums over weights of either sign
  for (int64_t ky = 0; ky < s.kernel_h; ++ky)
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const int64_t row = y * s.stride_h + ky * s.dilation_h - s.pad_h;
      const int64_t column = x * s.stride_w + kx * s.dilation_w - s.pad_w;
      const bool inside = row >= 0 && row < s.in_h && column >= 0 && column < s.in_w;
      const float* pixel = image + (inside ? (row * s.in_w + column) * s.in_c + first : 0);
      for (int64_t c = 0; c < inputs; ++c, ++weight) {
        const int64_t m = inside ? static_cast<int64_t>(std::rint(pixel[c] * reciprocal_)) : padding_;
        (*weight > 0 ? positive : negative) += m * *weight;
      }
    }
  if (!e.negative) return static_cast<float>(positive + negative) * e.multiplier[channel];
  return static_cast<float>(positive) * e.multiplier[channel] - static_cast<float>(-negative) * e.negative[channel];
}

void ExactConvOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const Conv2dShape& s = shape_;
  const SumEpilogue e = finish_.view(finish_.residual ? static_cast<const float*>(inputs[1]) : nullptr, outputs);
  const auto* in = static_cast<const float*>(inputs[0]);
  parallel_for(batch * s.out_h, threads, [&](int64_t row) {
    const float* image = in + row / s.out_h * s.in_h * s.in_w * s.in_c;
    int64_t at = row * s.out_w * s.out_c;
    for (int64_t x = 0; x < s.out_w; ++x)
      for (int64_t o = 0; o < s.out_c; ++o, ++at) {
        e.out[at] = finish_sum(&e, output(e, image, row % s.out_h, x, o), o, at);
      }
  });
}
