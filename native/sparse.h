// Operations on weights that are mostly zero, or codes of a small codebook.
#pragma once
#include <string>

#include "finish.h"
#include "kernels.h"
#include "kernels/sparse_conv.h"
#include "operation.h"
#include "strips.h"
#include "weights.h"

// y = W x with W [rows][cols] sparse; then the finish.
class SparseLinear : public Operation {
 public:
  SparseLinear(int64_t rows, int64_t cols, const SparseEntries& entries, const Finish& finish);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  int64_t weight_bytes() const override { return weights_.bytes() + (strips_ ? strips_->bytes() : 0); }
  std::string kernel() const override { return kernel_name_; }
  // For each part that so many threads would be given, the seconds of this thread that it takes alone, a mean of
  // `repeats`; with `equal_rows` of parts with equal numbers of rows instead of equal work.
  std::vector<double> part_seconds(const float* x, float* out, int64_t batch, int threads, int64_t repeats,
                                   bool equal_rows) const;

 private:
  // How a call is cut: samples of a chunk, rows of a unit; for each of `parts` the first unit, and the end of the last.
  struct Cut {
    bool by_strips;
    int64_t samples, unit, chunks, parts;
    size_t scratch;
    std::vector<int64_t> begins;
  };
  Cut cut(int64_t batch, int threads, bool equal_rows = false) const;
  // Some samples and some rows; a residual is left out, and the relu behind it.
  void run_part(const Cut& cut, int64_t chunk, int64_t part, const float* x, float* out, int64_t batch) const;

  Finish finish_;
  std::optional<Strips> strips_;  // where they are faster for few samples
  SparseLinearWeights weights_;   // for all others
  // Of all units before each, and of all: rows for few samples, rows for many, groups of strips.
  std::vector<int64_t> row_work_, run_work_, group_work_;
  void (*kernel_)(SPARSE_LINEAR_ARGUMENTS);
  std::string kernel_name_;
};

// A convolution by a sparse weight [O][C / groups][kernel_h][kernel_w], NHWC; then the finish.
class SparseConv : public Operation {
 public:
  SparseConv(const Conv2dShape& window, const SparseEntries& entries, const Finish& finish);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  int64_t weight_bytes() const override { return starts_.bytes() + offsets_.bytes() + values_.bytes(); }
  std::string kernel() const override { return kernel_name_; }

 private:
  void place(const SparseEntries& entries);

  Finish finish_;
  int64_t entries_;
  Aligned<uint32_t> starts_, offsets_;
  Aligned<float> values_;
  SparseConvWeights layout_;  // of these
  void (*kernel_)(SPARSE_CONV_ARGUMENTS);
  std::string kernel_name_;
};
