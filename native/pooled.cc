// Bands of rows: computed, pooled, encoded.
#include "pooled.h"

#include <algorithm>

#include "ceil_div.h"
#include "parallel.h"

namespace {

constexpr int64_t kFloat = sizeof(float);
// Of the layer's floats in a band: they stay in the second-level cache beside what the layer needs.
constexpr int64_t kBandBytes = 256 * 1024;
// Pool rows of a task, at least: neighbouring tasks compute the rows that both need twice.
constexpr int64_t kLeastRows = 4;

int64_t in_row(const PoolShape& p) { return p.in_w * p.channels; }
int64_t out_row(const PoolShape& p) { return p.out_w * p.channels; }

std::vector<int64_t> outputs_of(const PoolShape& pool, bool out, const std::optional<OwnedEncode>& encode) {
  std::vector<int64_t> bytes;
  if (out) bytes.push_back(pool.out_h * out_row(pool) * kFloat);
  if (encode) bytes.push_back(code_image_bytes(&encode->layout));
  return bytes;
}

}  // namespace

// Pool rows [row0, row1) and the rows of the layer that they read.
struct PooledOp::Band {
  int64_t row0, row1, first, last;
};

PooledOp::PooledOp(std::shared_ptr<const RowOperation> layer, const PoolShape& pool, bool out,
                   const std::optional<OwnedEncode>& encode)
    : Operation(layer->input_bytes(), outputs_of(pool, out, encode)), layer_(std::move(layer)), pool_(pool), out_(out),
      kernel_(pool2d_kernel()) {
  if (encode) encode_.emplace(*encode);
}

PooledOp::Band PooledOp::band(int64_t row0, int64_t row1) const {
  const int64_t first = row0 * pool_.stride_h - pool_.pad_h;
  const int64_t last = (row1 - 1) * pool_.stride_h - pool_.pad_h + (pool_.kernel_h - 1) * pool_.dilation_h + 1;
  return {row0, row1, std::max<int64_t>(first, 0), std::min(last, pool_.in_h)};
}

int64_t PooledOp::task_rows(int64_t batch, int threads) const {
  if (threads == 1) return pool_.out_h;
  const int64_t rows = std::max(ceil_div(pool_.out_h * batch, 4 * int64_t{threads}), kLeastRows);
  return ceil_div(pool_.out_h, ceil_div(pool_.out_h, std::min(rows, pool_.out_h)));  // tasks of about one size
}

void PooledOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  threads = layer_->useful_threads(batch, threads);
  const int64_t rows = task_rows(batch, threads), tasks = ceil_div(pool_.out_h, rows);
  auto* const out = out_ ? static_cast<float*>(outputs[0]) : nullptr;
  auto* const codes = encode_ ? static_cast<uint8_t*>(outputs[out_ ? 1 : 0]) : nullptr;
  parallel_for(batch * tasks, threads, [&](int64_t index) {
    const int64_t image = index / tasks, row0 = index % tasks * rows;
    run_bands(row0, std::min(row0 + rows, pool_.out_h), inputs, image,
              out ? out + image * pool_.out_h * out_row(pool_) : nullptr,
              codes ? codes + image * code_image_bytes(&encode_->layout()) : nullptr);
  });
}

// Pool rows [row0, row1), band by band; what a band and the next both read is kept. scratch: the layer's rows, its own
// scratch, and a row of the pool where its floats are not wanted.
void PooledOp::run_bands(int64_t row0, int64_t row1, const void* const* inputs, int64_t image, float* out,
                         void* codes) const {
  const int64_t row = in_row(pool_), step = std::max<int64_t>(kBandBytes / (row * kFloat) / pool_.stride_h, 1);
  const int64_t reach = (pool_.kernel_h - 1) * pool_.dilation_h + 1;
  const int64_t most = std::min((step - 1) * pool_.stride_h + reach, pool_.in_h);
  const int64_t floats = (most * row + 15) / 16 * 16, of_layer = (layer_->rows_scratch(most) + 63) / 64 * 64;
  const int64_t lone = out ? 0 : out_row(pool_) * kFloat;
  auto* const rows = static_cast<float*>(thread_scratch(floats * kFloat + of_layer + lone));
  char* const scratch = reinterpret_cast<char*>(rows + floats);
  float* const lone_row = reinterpret_cast<float*>(scratch + of_layer);
  Band before = {row0, row0, 0, 0};
  for (int64_t at = row0; at < row1; at += step) {
    const Band now = band(at, std::min(at + step, row1));
    const int64_t kept = std::max<int64_t>(before.last - now.first, 0);
    if (kept) std::copy_n(rows + (now.first - before.first) * row, kept * row, rows);
    float* const x = rows - now.first * row;  // where the image would begin
    layer_->run_rows(inputs, image, now.first + kept, now.last, x, scratch);
    for (int64_t i = now.row0; i < now.row1; ++i) {
      float* const result = out ? out + i * out_row(pool_) : lone_row;
      kernel_(&pool_, x, result - i * out_row(pool_), i, i + 1);
      if (codes) encode_->run_rows(result, i, i + 1, codes);
    }
    before = now;
  }
}
