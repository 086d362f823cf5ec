// Operations on weights that are mostly zero, or codes of a small codebook.
#pragma once
#include <string>

#include "finish.h"
#include "kernels.h"
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

 private:
  Finish finish_;
  SparseLinearWeights weights_;
  std::optional<Strips> strips_;  // beside them where they are faster for few samples
  void (*kernel_)(SPARSE_LINEAR_ARGUMENTS);
  std::string kernel_name_;
};
