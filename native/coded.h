// Float products with dense weights that are codes: signs, ternary, small codebooks.
#pragma once
#include <string>
#include <vector>

#include "cpu.h"
#include "finish.h"
#include "kernels/coded_linear.h"
#include "operation.h"
#include "weights.h"

// w[o][c] = table[codes[o][c]], times scale[o] if there is one; where `negative` is set, table entries below zero are
// times negative[o] instead.
struct CodedWeight {
  int64_t rows, cols;
  const uint8_t* codes;
  std::vector<float> table;            // finite, 1 to 256 entries
  std::vector<float> scale, negative;  // [rows] or empty
};

// w[o][width * r + j] = books[r][codes[o][r]][j]: product quantisation. Columns beyond the last have no meaning.
struct ProductWeight {
  int64_t rows, cols, width, count;  // width 1, 2 or 4, count 1 to 16
  const uint8_t* codes;              // [rows][runs], runs = ceil(cols / width)
  const float* books;                // [runs][count][width], finite
};

// y = W x, codes packed to about as many bits as they need; then the finish. The size of the batch decides how sums are
// added up, the number of threads does not.
class CodedLinear : public Operation {
 public:
  CodedLinear(const CodedWeight& weight, const Finish& finish);
  CodedLinear(const ProductWeight& weight, const Finish& finish);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  int64_t weight_bytes() const override;
  std::string kernel() const override { return kernel_name_; }

 private:
  void lay_out(Isa isa);
  void pack_digits(const CodedWeight& weight);
  void pack_runs(const ProductWeight& weight);
  void pack_bytes(const CodedWeight& weight);

  Finish finish_;
  std::vector<float> scale_, negative_;
  Aligned<uint32_t> packed_;
  Aligned<uint8_t> bytes_;
  Aligned<float> basis_, negative_basis_;
  CodedMatrix matrix_ = {};
  int64_t registers_ = 0;    // of rows
  int64_t expand_from_ = 0;  // the batch from which on weights become floats, part by part
  void (*kernel_)(CODED_LINEAR_ARGUMENTS) = nullptr;
  std::string kernel_name_;
};
