// Convolutions of byte codes as operations.
#pragma once
#include <string>
#include <vector>

#include "borders.h"
#include "bytes.h"
#include "finish.h"
#include "operation.h"

class ByteConvOp final : public RowOperation {
 public:
  // weights: [O][C / groups][kernel_h][kernel_w], copied. Codes are from 0 to `largest`. Throws std::invalid_argument
  // where a sum might not fit.
  ByteConvOp(const Conv2dShape& window, const CodeLayout& x, int32_t low, int32_t step, int32_t padding,
             int32_t largest, const int8_t* weights, Finish finish);

  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  bool makes_floats_only() const override { return finish_.out && !finish_.encode; }
  const Conv2dShape& window() const override { return conv_.shape; }
  int useful_threads(int64_t batch, int threads) const override;
  int64_t rows_scratch(int64_t rows) const override;
  void run_rows(const void* const* inputs, int64_t image, int64_t row0, int64_t row1, float* image_out,
                void* scratch) const override;
  int64_t weight_bytes() const override { return packed_.bytes(); }
  int in_place() const override { return finish_.residual && finish_.out ? 1 : -1; }
  std::string kernel() const override { return name_; }

 private:
  void set_limits(const int8_t* weights);

  Finish finish_;
  ByteConv conv_;
  Borders borders_;
  Aligned<uint8_t> packed_;
  Aligned<int32_t> limit_;  // of ByteConv, or empty
  std::vector<int32_t> flip_;
  std::string name_;
  void (*run_)(BYTES_ARGUMENTS);
};
