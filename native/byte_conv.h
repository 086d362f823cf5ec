// Convolutions of byte codes as operations.
#pragma once
#include <string>

#include "borders.h"
#include "bytes.h"
#include "finish.h"
#include "operation.h"

class ByteConvOp final : public Operation {
 public:
  // weights: [O][C / groups][kernel_h][kernel_w], copied. Throws std::invalid_argument where a sum might not fit.
  ByteConvOp(const Conv2dShape& window, const CodeLayout& x, int32_t low, int32_t step, int32_t padding,
             const int8_t* weights, Finish finish);

  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  int64_t weight_bytes() const override { return packed_.bytes(); }
  int in_place() const override { return finish_.residual && finish_.out ? 1 : -1; }
  std::string kernel() const override { return name_; }

 private:
  Finish finish_;
  ByteConv conv_;
  Borders borders_;
  Aligned<uint8_t> packed_;
  std::string name_;
  void (*run_)(BYTES_ARGUMENTS);
};
