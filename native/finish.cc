#include "finish.h"

#include <tuple>

namespace {

const float* or_null(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

Encode OwnedEncode::view() const { return {kind, or_null(scale), or_null(shift), reciprocal, low, high, layout}; }

Prelu OwnedPrelu::view() const {
  return {or_null(scale), or_null(shift), or_null(slope), or_null(after_scale), or_null(after_shift)};
}

Epilogue Finish::rest(const float* residual) const {
  return {or_null(bias), or_null(scale), or_null(shift), residual, relu};
}

SumEpilogue Finish::of_sums(const float* residual) const {
  SumEpilogue e = {};
  e.multiplier = or_null(multiplier);
  e.negative = or_null(negative);
  e.rest = rest(residual);
  e.prelu = prelu.view();
  e.limited = limits.has_value();
  if (limits) std::tie(e.low, e.high) = *limits;
  e.encode.kind = ENCODE_NONE;
  return e;
}

SumEpilogue Finish::view(const float* residual, void* const* outputs) const {
  SumEpilogue e = of_sums(residual);
  if (out) e.out = static_cast<float*>(*outputs++);
  if (encode) {
    e.encode = encode->view();
    e.codes = *outputs;
  }
  return e;
}

std::vector<int64_t> Finish::input_bytes(int64_t x, int64_t pixels) const {
  std::vector<int64_t> bytes = {x};
  if (residual) bytes.push_back(pixels * channels * static_cast<int64_t>(sizeof(float)));
  return bytes;
}

std::vector<int64_t> Finish::output_bytes(int64_t pixels) const {
  std::vector<int64_t> bytes;
  if (out) bytes.push_back(pixels * channels * static_cast<int64_t>(sizeof(float)));
  if (encode) bytes.push_back(code_image_bytes(&encode->layout));
  return bytes;
}
