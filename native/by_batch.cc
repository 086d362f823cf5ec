// Cuts byte codes into planes where few samples come.
#include "by_batch.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "kernels/code_rows.h"
#include "memory.h"

namespace {

constexpr int64_t kMostBytes = 32 * 1024;  // of planes: they lie on the stack
constexpr int kInputs = 2;                 // at most: codes, a residual

}  // namespace

ByBatchOp::ByBatchOp(std::shared_ptr<const Operation> few, std::shared_ptr<const Operation> many,
                     const CodeLayout& planes, const CodeLayout& bytes, int64_t most)
    : Operation(many->input_bytes(), many->output_bytes()),
      few_(std::move(few)),
      many_(std::move(many)),
      planes_(planes),
      bytes_(bytes),
      most_(std::min(most, kMostBytes / code_image_bytes(&planes))) {
  std::vector<int64_t> inputs = many_->input_bytes();
  const bool codes = !inputs.empty() && inputs[0] == code_image_bytes(&bytes_) && inputs.size() <= kInputs;
  if (codes) inputs[0] = code_image_bytes(&planes_);
  if (!codes || few_->input_bytes() != inputs || few_->output_bytes() != many_->output_bytes())
    throw std::invalid_argument("the operations are not of one layer with these layouts of its input");
}

// Eight codes at a time: a product gathers one bit of each.
void ByBatchOp::cut(const uint8_t* bytes, uint8_t* planes) const {
  constexpr uint64_t kOnes = 0x0101010101010101, kGather = 0x0102040810204080;
  bytes += code_pixel(&bytes_, 0, 0);
  std::memset(planes, 0, code_image_bytes(&planes_));
  const int64_t plane = 4 * code_plane_units(&planes_);
  planes += 4 * code_pixel(&planes_, 0, 0);
  for (int64_t c = 0; c < bytes_.channels; c += 8) {
    uint64_t codes = 0;
    std::memcpy(&codes, bytes + c, std::min<int64_t>(bytes_.channels - c, 8));
    for (int64_t n = 0; n < planes_.planes; ++n)
      planes[n * plane + c / 8] = static_cast<uint8_t>((codes >> n & kOnes) * kGather >> 56);
  }
}

void ByBatchOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  if (batch > most_) return many_->run(inputs, outputs, batch, threads);
  alignas(64) uint8_t planes[kMostBytes + BUFFER_SLACK];
  for (int64_t n = 0; n < batch; ++n)
    cut(static_cast<const uint8_t*>(inputs[0]) + n * code_image_bytes(&bytes_),
        planes + n * code_image_bytes(&planes_));
  const void* own[kInputs] = {planes, few_->input_bytes().size() > 1 ? inputs[1] : nullptr};
  few_->run(own, outputs, batch, threads);
}
