// What an operation does with its sums, owned: Encode and SumEpilogue of codes.h with their vectors.
#pragma once
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "codes.h"

struct OwnedEncode {
  int kind = ENCODE_SIGN;
  std::vector<float> scale, shift;  // empty: left out
  float reciprocal = 1, low = 0, high = 1;
  CodeLayout layout = {};

  Encode view() const;
};

struct OwnedPrelu {
  std::vector<float> scale, shift, slope, after_scale, after_shift;  // all of one size; empty: left out

  Prelu view() const;
};

struct Finish {
  int64_t channels = 0;
  std::vector<float> multiplier, negative, bias, scale, shift;  // empty: left out
  bool residual = false;  // the operation's last input is added
  bool relu = false;
  OwnedPrelu prelu;                               // of exact sums
  std::optional<std::pair<float, float>> limits;  // likewise
  bool out = true;  // the floats are the operation's first output
  std::optional<OwnedEncode> encode;  // the codes are its last output

  // Of the part for floats; `residual` is a buffer or null.
  Epilogue rest(const float* residual) const;
  // Of an exact sum, without outputs and codes.
  SumEpilogue of_sums(const float* residual) const;
  // All of it. `outputs`: the buffers of the operation's outputs.
  SumEpilogue view(const float* residual, void* const* outputs) const;

  // Bytes per image of an Operation's inputs, an image of `x` bytes and a residual if there is one, and of its outputs,
  // for `pixels` output pixels.
  std::vector<int64_t> input_bytes(int64_t x, int64_t pixels) const;
  std::vector<int64_t> output_bytes(int64_t pixels) const;
};
