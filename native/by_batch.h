// A linear layer of byte codes that few samples pass as bit planes: these wait for memory, and bits are an eighth of
// bytes.
#pragma once
#include <memory>
#include <string>

#include "codes.h"
#include "operation.h"

class ByBatchOp final : public Operation {
 public:
  // Two operations of the same layer, on codes of one pixel in one group: `few` reads planes, `many` bytes. Batches of
  // up to `most` samples are for the former. Throws std::invalid_argument if the operations do not fit.
  ByBatchOp(std::shared_ptr<const Operation> few, std::shared_ptr<const Operation> many, const CodeLayout& planes,
            const CodeLayout& bytes, int64_t most);
  std::string kernel() const override { return many_->kernel() + " or " + few_->kernel(); }
  int64_t weight_bytes() const override { return few_->weight_bytes() + many_->weight_bytes(); }
  int in_place() const override { return many_->in_place(); }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  void cut(const uint8_t* bytes, uint8_t* planes) const;

  std::shared_ptr<const Operation> few_, many_;
  CodeLayout planes_, bytes_;
  int64_t most_;
};
