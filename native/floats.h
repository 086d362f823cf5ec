// Operations on float32: NHWC images, [pixels][channels] or vectors, sizes of one image.
#pragma once
#include <string>

#include "dispatch.h"
#include "finish.h"
#include "operation.h"

class FloatConvOp final : public Operation {
 public:
  // weight: [O][C / groups][kernel_h][kernel_w]. `finish` has neither multiplier nor encode; the same holds below.
  FloatConvOp(const Conv2dShape& shape, const float* weight, Finish finish);
  std::string kernel() const override;
  int64_t weight_bytes() const override { return weights_.packed.bytes(); }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  Conv2dShape shape_;
  Conv2dWeights weights_;
  Finish finish_;
  Conv2dKernel kernel_;
  std::string level_;
};

class FloatLinearOp final : public Operation {
 public:
  FloatLinearOp(int64_t in_c, const float* weight, Finish finish);  // weight: [O][C]
  std::string kernel() const override { return "linear " + level_; }
  int64_t weight_bytes() const override { return weights_.packed.bytes(); }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  LinearWeights weights_;
  Finish finish_;
  LinearKernel kernel_;
  std::string level_;
};

class PoolOp : public Operation {
 public:
  PoolOp(const PoolShape& shape, PoolKernel kernel);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  PoolShape shape_;
  PoolKernel kernel_;
};

// y = x * scale + shift per channel. Inputs are floats or, as pixels, bytes that are divided by 255 first.
class AffineOp : public Operation {
 public:
  AffineOp(int64_t pixels, std::vector<float> scale, std::vector<float> shift, bool bytes);
  bool exact_reads() const override { return true; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int64_t pixels_;
  std::vector<float> scale_, shift_;
  bool bytes_;
};

class ReluOp final : public Operation {
 public:
  explicit ReluOp(int64_t count);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
};

class AddOp final : public Operation {
 public:
  explicit AddOp(int64_t count);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
};

// [rows][columns] elements of 1 or 4 bytes to [columns][rows]: between channels last and channels first.
class TransposeOp final : public Operation {
 public:
  TransposeOp(int64_t rows, int64_t columns, int64_t element_bytes);
  bool exact_reads() const override { return true; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int64_t rows_, columns_, element_bytes_;
};

using Sizes = std::vector<int64_t>;

class PadOp final : public Operation {
 public:
  PadOp(const Sizes& shape, const Sizes& before, const Sizes& after, float value);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  Sizes shape_, strides_;  // strides_: of the output
  int64_t count_, offset_ = 0, out_count_;
  float value_;
};

// Elements start, start + step, ... before stop of one axis.
class SliceOp final : public Operation {
 public:
  SliceOp(const Sizes& shape, int64_t axis, int64_t start, int64_t stop, int64_t step);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int64_t outer_, length_, inner_, start_, step_, count_;  // of [outer][length][inner], `count` of the axis are kept
};

// The mean over some axes, added up in float64.
class MeanOp final : public Operation {
 public:
  MeanOp(const Sizes& shape, const std::vector<bool>& reduced);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  Sizes shape_, strides_;  // strides_: of the sums, 0 along reduced axes
  int64_t in_count_, out_count_;
};

// exp(x) / sum(exp(x)) along one axis, computed in float64.
class SoftmaxOp final : public Operation {
 public:
  SoftmaxOp(const Sizes& shape, int64_t axis);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int64_t outer_, length_, inner_;
};
