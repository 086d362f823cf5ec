// Operations that make codes of floats and of codes.
#pragma once
#include <string>

#include "bits.h"
#include "finish.h"
#include "operation.h"

// NHWC floats of the encode's layout to codes.
class EncodeOp final : public Operation {
 public:
  explicit EncodeOp(const OwnedEncode& encode);
  std::string kernel() const override;
  const CodeLayout& layout() const { return encode_.layout; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;
  // Rows [row0, row1) of one image; x: the first of these rows, codes: the image.
  void run_rows(const float* x, int64_t row0, int64_t row1, void* codes) const;

 private:
  OwnedEncode encode_;
  void (*row_)(ENCODE_ARGUMENTS);
  const char* level_;
};

// Images as callers hand them, channels first, to bytes; of floats, or of bytes that are divided by 255. At most
// ENCODE_IMAGE_CHANNELS channels in one group.
class EncodeImageOp final : public Operation {
 public:
  EncodeImageOp(const OwnedEncode& encode, bool uint8);
  std::string kernel() const override;
  bool exact_reads() const override { return true; }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  OwnedEncode encode_;
  bool uint8_;
  void (*row_)(ENCODE_IMAGE_ARGUMENTS);
  const char* level_;
};

// Max pooling of codes, or min pooling of those channels where `least` is set; what is outside the image does not
// count. The layouts have the same channels, groups and planes. `least`: a number per channel, or empty.
class PoolCodesOp final : public Operation {
 public:
  PoolCodesOp(const Conv2dShape& shape, const CodeLayout& x, const CodeLayout& out, const std::vector<bool>& least);
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  Conv2dShape shape_;
  CodeLayout x_, out_;
  std::vector<uint8_t> complement_;  // of a pixel in one plane: the least codes are the largest of the complements

  void turn(const CodeLayout& layout, const uint8_t* from, uint8_t* to) const;
};
