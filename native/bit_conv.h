// Convolutions (and linear layers, windows of one pixel) of coded activations in bit planes with small whole weights.
#pragma once
#include <string>
#include <vector>

#include "bits.h"
#include "borders.h"
#include "finish.h"
#include "operation.h"

// One kernel, and how it wants words of weights cut: parts of so many bits.
struct BitVariant {
  const char* level;
  void (*sums)(BITS_ARGUMENTS);
  int part_bits;
};

class BitConvOp final : public Operation {
 public:
  // Activations are m = low + step * code, step 1 or 2, outside the image m = padding. weights: [O][C /
  // groups][kernel_h] [kernel_w], whole numbers; where finish.negative is set they are -1, 0, 1.
  // `kernel` names a variant ("plain avx2" for example); empty: the best of the current level.
  // Throws std::invalid_argument if sums might not fit in 32 bits, or there is no such variant at this level.
  BitConvOp(const Conv2dShape& shape, const CodeLayout& x, int low, int step, const int8_t* weights, int padding,
            const Finish& finish, const std::string& kernel = "");
  std::string kernel() const override;
  int64_t weight_bytes() const override;
  int in_place() const override { return finish_.residual && finish_.out ? 1 : -1; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  // One plane of weights: bit `shift` of k + offset, worth +-2^significance.
  struct Plane {
    int offset, shift, significance;
    bool negative;
  };
  // Sums over some planes: of all weights, or of P or N where there are two magnitudes.
  struct Part {
    std::vector<Plane> planes;
    int form;
    BitSums sums = {};
    Aligned<uint8_t> weights;
    int64_t lane_bytes;  // of weights
    Borders borders;
    bool negate = false;  // the passes count with the other sign
  };
  struct Task;

  int64_t group_lanes() const { return lanes_ / shape_.groups; }
  int64_t channel_of(int64_t lane) const;  // or -1
  std::vector<float> lane_vector(const std::vector<float>& channels) const;

  Part make_part(std::vector<Plane> planes, int form, const int8_t* weights, int low, int step, int padding) const;
  int value_of(const Part& part, int k) const;
  void order_passes(Part* part) const;
  void pack(Part* part, const int8_t* weights) const;
  void place_codes();
  void set_limits();
  BitFinish finish_view(const float* residual, void* const* outputs) const;
  void run_task(const Task& task, const void* x, const BitFinish& finish, int64_t out_image) const;

  Conv2dShape shape_;
  CodeLayout x_;
  Finish finish_;  // vectors per lane
  int64_t lanes_;
  int shift_;      // log2 of step
  BitVariant variant_ = {};
  void (*end_)(BITS_FINISH_ARGUMENTS);
  std::vector<Part> parts_;
  Aligned<int32_t> limit_;
  bool limited_ = false;
  std::vector<uint16_t> flip_;
  std::vector<int32_t> place_;
  std::vector<uint8_t> fill_;  // empty: units straddle words
};
