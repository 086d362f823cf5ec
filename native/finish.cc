#include "finish.h"

namespace {

const float* or_null(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

Encode OwnedEncode::view() const { return {kind, or_null(scale), or_null(shift), reciprocal, low, high, layout}; }

Epilogue Finish::rest(const float* residual) const {
  return {or_null(bias), or_null(scale), or_null(shift), residual, relu};
}

SumEpilogue Finish::view(const float* residual, void* const* outputs) const {
  SumEpilogue e = {or_null(multiplier), or_null(negative), rest(residual), nullptr, {}, nullptr};
  e.encode.kind = ENCODE_NONE;
  if (out) e.out = static_cast<float*>(*outputs++);
  if (encode) {
    e.encode = encode->view();
    e.codes = *outputs;
  }
  return e;
}

void Finish::append_bytes(int64_t pixels, std::vector<int64_t>* inputs, std::vector<int64_t>* outputs) const {
  const int64_t bytes = pixels * channels * static_cast<int64_t>(sizeof(float));
  if (residual) inputs->push_back(bytes);
  if (out) outputs->push_back(bytes);
  if (encode) outputs->push_back(code_image_bytes(&encode->layout));
}
