// The graph's `sign`, `quantize` and integer layers from floats to floats, in portable code: for what no kernel of its
// own covers, and as a second opinion in tests.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "finish.h"
#include "kernels.h"
#include "operation.h"

// y = +1 where x >= 0, else -1.
class SignOp final : public Operation {
 public:
  explicit SignOp(int64_t count);
  bool exact_reads() const override { return true; }
  int in_place() const override { return 0; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int64_t count_;
};

// y = clamp(round_half_even(x * reciprocal), low, high) * scale, each for one channel; [pixels][channels].
class QuantizeOp final : public Operation {
 public:
  struct Channels {
    std::vector<float> scale, reciprocal, low, high;  // low and high whole numbers up to 2^21
  };
  QuantizeOp(int64_t pixels, Channels channels);
  bool exact_reads() const override { return true; }
  int in_place() const override { return 0; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int64_t pixels_;
  Channels channels_;
};

// A convolution of floats x = fl32(scale * m), m whole, with whole weights: the sums of m * weight are exact.
class ExactConvOp final : public Operation {
 public:
  // weights: [O][C / groups][kernel_h][kernel_w]. `padding`: the m outside the image. Where finish.negative is set, the
  // weights are -1, 0, 1, and the sums over each sign are scaled apart. finish.encode must not be set.
  ExactConvOp(const Conv2dShape& shape, float reciprocal, const int8_t* weights, int32_t padding, const Finish& finish);
  std::string kernel() const override { return "exact portable"; }
  int64_t weight_bytes() const override { return static_cast<int64_t>(weights_.size()); }
  bool exact_reads() const override { return true; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  Conv2dShape shape_;
  float reciprocal_;
  std::vector<int8_t> weights_;  // [O][kernel_h][kernel_w][C / groups]
  int32_t padding_;
  Finish finish_;

  float output(const SumEpilogue& e, const float* image, int64_t y, int64_t x, int64_t channel) const;
};
