// A layer, max pooling of its floats, and codes of that, in one pass: the floats of the layer never leave the cache.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "dispatch.h"
#include "encoding.h"
#include "operation.h"

class PooledOp final : public Operation {
 public:
  // The pool reads the image that `layer` makes. Outputs: the floats if `out`, the codes if `encode`.
  PooledOp(std::shared_ptr<const RowOperation> layer, const PoolShape& pool, bool out,
           const std::optional<OwnedEncode>& encode);
  std::string kernel() const override { return layer_->kernel() + " + pool2d"; }
  int64_t weight_bytes() const override { return layer_->weight_bytes(); }
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const override;

 private:
  struct Band;

  int64_t task_rows(int64_t batch, int threads) const;
  Band band(int64_t row0, int64_t row1) const;
  void run_bands(int64_t row0, int64_t row1, const void* const* inputs, int64_t image, float* out, void* codes) const;

  std::shared_ptr<const RowOperation> layer_;
  PoolShape pool_;
  bool out_;
  std::optional<EncodeOp> encode_;
  Pool2dKernel kernel_;
};
