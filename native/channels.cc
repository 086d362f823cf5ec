#include "channels.h"

#include <algorithm>
#include <numeric>

#include "cpu.h"
#include "parallel.h"

namespace {

constexpr int64_t kFloat = sizeof(float);

std::vector<int64_t> bytes_of(int64_t outer, std::vector<int64_t> sizes) {
  for (int64_t& size : sizes) size *= outer * kFloat;
  return sizes;
}

}  // namespace

ChannelNormOp::ChannelNormOp(const ChannelNorm& norm)
    : Operation({norm.pixels * norm.channels * kFloat}, {norm.pixels * norm.channels * kFloat}), norm_(norm),
      kernel_(channel_norm_kernel()), level_(isa_name(std::min(current_isa(), Isa::avx512))) {}

void ChannelNormOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  run_channel_norm(kernel_, batch, norm_, static_cast<const float*>(inputs[0]), static_cast<float*>(outputs[0]),
                   threads);
}

ConcatOp::ConcatOp(int64_t outer, const std::vector<int64_t>& sizes)
    : Operation(bytes_of(outer, sizes), {std::accumulate(sizes.begin(), sizes.end(), int64_t{0}) * outer * kFloat}),
      outer_(outer), sizes_(sizes) {}

void ConcatOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const int64_t width = output_bytes()[0] / kFloat / outer_;
  parallel_for(batch, threads, [&](int64_t image) {
    float* y = static_cast<float*>(outputs[0]) + image * outer_ * width;
    for (size_t i = 0; i < sizes_.size(); y += sizes_[i], ++i) {
      const float* x = static_cast<const float*>(inputs[i]) + image * outer_ * sizes_[i];
      for (int64_t o = 0; o < outer_; ++o) std::copy(x + o * sizes_[i], x + (o + 1) * sizes_[i], y + o * width);
    }
  });
}

MaxoutOp::MaxoutOp(int64_t count, int64_t pieces)
    : Operation({count * pieces * kFloat}, {count * kFloat}), count_(count), pieces_(pieces) {}

void MaxoutOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  parallel_for(batch, threads, [&](int64_t image) {
    const float* x = static_cast<const float*>(inputs[0]) + image * count_ * pieces_;
    float* y = static_cast<float*>(outputs[0]) + image * count_;
    for (int64_t i = 0; i < count_; ++i, x += pieces_) {
      float most = x[0];
      for (int64_t k = 1; k < pieces_; ++k) most = x[k] <= most || most != most ? most : x[k];
      y[i] = most;
    }
  });
}
