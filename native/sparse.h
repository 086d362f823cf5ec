// Operations on weights that are mostly zero, or codes of a small codebook.
#pragma once
#include <string>

#include "finish.h"
#include "kernels.h"
#include "operation.h"
#include "weights.h"

// The non-zeros of a weight, not owned: `positions` ascending in the flat order of its dense form; either kind of codes with a
// table, or neither and a table of one value per entry.
struct SparseEntries {
  int64_t count;
  const int64_t* positions;
  const uint8_t* codes8;
  const uint16_t* codes16;
  const float* table;
  int64_t table_size;

  float value(int64_t e) const { return table[codes8 ? codes8[e] : codes16 ? codes16[e] : e]; }
};

// y = W x with W [rows][cols] sparse; then the finish.
class SparseLinear : public Operation {
 public:
  SparseLinear(int64_t rows, int64_t cols, const SparseEntries& entries, const Finish& finish);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  int64_t weight_bytes() const override { return weights_.bytes(); }
  std::string kernel() const override { return kernel_name_; }

 private:
  Finish finish_;
  SparseLinearWeights weights_;
  void (*kernel_)(SPARSE_LINEAR_ARGUMENTS);
  std::string kernel_name_;
};
