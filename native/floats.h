// Operations on float32: NHWC images, [pixels][channels] or vectors, sizes of one image.
#pragma once
#include <string>

#include "dispatch.h"
#include "finish.h"
#include "operation.h"

class FloatConvOp final : public RowOperation {
 public:
  // weight: [O][C / groups][kernel_h][kernel_w]. `finish` has neither multiplier nor encode; the same holds below.
  FloatConvOp(const Conv2dShape& shape, const float* weight, Finish finish);
  std::string kernel() const override;
  int64_t weight_bytes() const override { return weights_.packed.bytes(); }
  int in_place() const override { return finish_.residual ? 1 : -1; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  bool makes_floats_only() const override { return true; }
  const Conv2dShape& window() const override { return shape_; }
  int useful_threads(int64_t batch, int threads) const override;
  int64_t rows_scratch(int64_t rows) const override;
  void run_rows(const void* const* inputs, int64_t image, int64_t row0, int64_t row1, float* image_out,
                void* scratch) const override;

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
  explicit PoolOp(const PoolShape& shape);
  std::string kernel() const override { return "pool2d " + level_; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  PoolShape shape_;
  Pool2dKernel kernel_;
  std::string level_;
};

// An Elementwise of vectors per channel. Inputs are floats or, to normalise, bytes.
class ChannelwiseOp : public Operation {
 public:
  // Those that the kind has no use for are empty.
  ChannelwiseOp(int kind, int64_t pixels, const std::vector<float>& scale, const std::vector<float>& shift,
                const OwnedPrelu& prelu);
  std::string kernel() const override { return "elementwise " + level_; }
  int in_place() const override { return kind_ == ELEMENTWISE_NORMALIZE ? -1 : 0; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int kind_;
  int64_t count_;
  std::vector<float> scale_, shift_;
  OwnedPrelu prelu_;  // all repeated, so that few channels fill registers too
  ElementwiseKernel kernel_;
  std::string level_;
};

// Every number by itself: a clamp (a relu is one from zero on) or an ELEMENTWISE_ABS.
class UnaryOp : public Operation {
 public:
  UnaryOp(int kind, int64_t count, float low, float high);
  int in_place() const override { return 0; }
  std::string kernel() const override { return "elementwise " + level_; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int kind_;
  float low_, high_;
  ElementwiseKernel kernel_;
  std::string level_;
};

// A sum or a product; of the second input there may be one number for every `channels` of the first.
class BinaryOp : public Operation {
 public:
  BinaryOp(int kind, int64_t count, int64_t channels);
  int in_place() const override { return 0; }
  std::string kernel() const override { return "elementwise " + level_; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int kind_;
  int64_t channels_;
  ElementwiseKernel kernel_;
  std::string level_;
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

// Elements start, start + step, ... of every axis, so many as `count` says, within a border.
class PadOp final : public Operation {
 public:
  struct Axis {
    int64_t size, start, step, count, before, after;
  };
  PadOp(const std::vector<Axis>& axes, float value);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  Sizes kept_, x_strides_, y_strides_;  // between elements that are kept
  int64_t x_offset_ = 0, y_offset_ = 0;
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
