// Operations on float32 that join the channels of a pixel, or of all pixels; laid out as in floats.h.
#pragma once
#include <string>

#include "dispatch.h"
#include "operation.h"

class ChannelNormOp : public Operation {
 public:
  explicit ChannelNormOp(const ChannelNorm& norm);
  std::string kernel() const override { return "norm " + level_; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  ChannelNorm norm_;
  ChannelNormKernel kernel_;
  std::string level_;
};

// [outer][size] of every input one behind the other: [outer][sum of sizes].
class ConcatOp final : public Operation {
 public:
  ConcatOp(int64_t outer, const std::vector<int64_t>& sizes);
  bool exact_reads() const override { return true; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int64_t outer_;
  std::vector<int64_t> sizes_;
};

// The largest of each `pieces` neighbours, a NaN if there is one: [count][pieces] to [count].
class MaxoutOp final : public Operation {
 public:
  MaxoutOp(int64_t count, int64_t pieces);
  bool exact_reads() const override { return true; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  int64_t count_, pieces_;
};
