// Operations on float weights whose zeros follow a pattern; see kernels/pattern.h.
#pragma once
#include <string>

#include "finish.h"
#include "kernels/pattern.h"
#include "operation.h"
#include "weights.h"

// A convolution, or a linear layer as the convolution of an image of one pixel, whose batch is then a row of pixels.
template <class Weights>
class PatternedConv : public Operation {
 public:
  using Kernel = void (*)(PATTERN_ARGUMENTS(Weights));
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  std::string kernel() const override { return kernel_name_; }

 protected:
  PatternedConv(const Conv2dShape& shape, const Finish& finish, Kernel kernel, std::string name);

  Conv2dShape shape_;
  int64_t products_ = 0;  // of an output pixel
  Weights weights_ = {};  // of what the derived class owns

 private:
  void run_samples(const Epilogue& epilogue, const float* x, float* out, int64_t batch, int threads) const;

  Finish finish_;
  Kernel kernel_;
  std::string kernel_name_;
};

// weight: [O][C / groups][kernel_h][kernel_w]; pattern_slots(weight, shape) at most PATTERN_SLOTS.
class PatternConv final : public PatternedConv<PatternWeights> {
 public:
  PatternConv(const Conv2dShape& shape, const float* weight, const Finish& finish);
  int64_t weight_bytes() const override { return places_.bytes() + values_.bytes(); }

 private:
  Aligned<uint8_t> places_;
  Aligned<float> values_;
};

// The most weights that are not zero of an output channel in a window of PATTERN_WINDOW inputs.
int64_t pattern_slots(const Conv2dShape& shape, const float* weight);

class BlockedConv final : public PatternedConv<BlockedWeights> {
 public:
  BlockedConv(const Conv2dShape& shape, const float* weight, const Finish& finish);
  int64_t weight_bytes() const override { return starts_.bytes() + offsets_.bytes() + values_.bytes(); }

 private:
  Aligned<uint32_t> starts_, offsets_;
  Aligned<float> values_;
};
