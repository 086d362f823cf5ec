#include "floats.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "cpu.h"
#include "parallel.h"

namespace {

constexpr int64_t kFloat = sizeof(float);

const float* floats(const void* p) { return static_cast<const float*>(p); }
float* floats(void* p) { return static_cast<float*>(p); }

int64_t count_of(Sizes::const_iterator begin, Sizes::const_iterator end) {
  return std::accumulate(begin, end, int64_t{1}, std::multiplies<>());
}
int64_t count_of(const Sizes& shape) { return count_of(shape.begin(), shape.end()); }

const float* residual_of(const Finish& f, const void* const* inputs) {
  return f.residual ? floats(inputs[1]) : nullptr;
}

// The level of the float kernels that run now.
std::string float_level() { return isa_name(std::min(current_isa(), Isa::avx512)); }

// Distances between neighbours along each axis.
Sizes strides_of(const Sizes& shape) {
  Sizes strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

// Calls body(x offset, y offset) for every row along the last axis of `shape`.
template <class Body>
void for_rows_of(const Sizes& shape, const Sizes& x_strides, const Sizes& y_strides, const Body& body) {
  Sizes at(shape.size(), 0);
  for (int64_t x = 0, y = 0;;) {
    body(x, y);
    size_t axis = shape.size() - 1;
    for (;;) {  // the next row: an odometer
      if (axis == 0) return;
      --axis;
      x += x_strides[axis];
      y += y_strides[axis];
      if (++at[axis] < shape[axis]) break;
      x -= shape[axis] * x_strides[axis];
      y -= shape[axis] * y_strides[axis];
      at[axis] = 0;
    }
  }
}

// Calls body(x offset, y offset, run) for every row along the last axis of `shape`; x is dense, y has these strides.
template <class Body>
void for_rows(const Sizes& shape, const Sizes& strides, const Body& body) {
  const int64_t run = shape.back(), rows = count_of(shape.begin(), shape.end() - 1);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t y = 0, rest = row;
    for (size_t axis = shape.size() - 1; axis-- > 0; rest /= shape[axis]) y += rest % shape[axis] * strides[axis];
    body(row * run, y, run);
  }
}

}  // namespace

FloatConvOp::FloatConvOp(const Conv2dShape& s, const float* weight, Finish finish)
    : RowOperation(finish.input_bytes(s.in_h * s.in_w * s.in_c * kFloat, s.out_h * s.out_w),
                   finish.output_bytes(s.out_h * s.out_w)),
      shape_(s), weights_(weight, s, has_tiles()),
      finish_(std::move(finish)), kernel_(conv2d_kernel(weights_)),
      level_(weights_.in_parts ? "amx" : float_level()) {}

std::string FloatConvOp::kernel() const { return (weights_.depthwise ? "depthwise " : "conv2d ") + level_; }

void FloatConvOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  Conv2dShape shape = shape_;
  shape.batch = batch;
  const Epilogue epilogue = finish_.rest(residual_of(finish_, inputs));
  run_conv2d(kernel_, shape, weights_, epilogue, floats(inputs[0]), floats(outputs[0]), threads);
}

int FloatConvOp::useful_threads(int64_t batch, int threads) const {
  Conv2dShape shape = shape_;
  shape.batch = batch;
  return conv2d_threads(shape, weights_, threads);
}

int64_t FloatConvOp::rows_scratch(int64_t rows) const { return conv2d_rows_scratch(shape_, weights_, rows); }

void FloatConvOp::run_rows(const void* const* inputs, int64_t image, int64_t row0, int64_t row1, float* image_out,
                           void* scratch) const {
  float* const out = image_out - image * shape_.out_h * shape_.out_w * shape_.out_c;  // where the batch would begin
  const Epilogue epilogue = finish_.rest(residual_of(finish_, inputs));
  run_conv2d_rows(kernel_, shape_, weights_, epilogue, floats(inputs[0]), out, image, row0, row1, scratch);
}

FloatLinearOp::FloatLinearOp(int64_t in_c, const float* weight, Finish finish)
    : Operation(finish.input_bytes(in_c * kFloat, 1), finish.output_bytes(1)), weights_(weight, finish.channels, in_c),
      finish_(std::move(finish)), kernel_(linear_kernel()), level_(float_level()) {}

void FloatLinearOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const Epilogue epilogue = finish_.rest(residual_of(finish_, inputs));
  run_linear(kernel_, batch, weights_, epilogue, floats(inputs[0]), floats(outputs[0]), threads);
}

PoolOp::PoolOp(const PoolShape& s)
    : Operation({s.in_h * s.in_w * s.channels * kFloat}, {s.out_h * s.out_w * s.channels * kFloat}), shape_(s),
      kernel_(pool2d_kernel()), level_(float_level()) {}

void PoolOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  run_pool2d(kernel_, batch, shape_, floats(inputs[0]), floats(outputs[0]), threads);
}

namespace {

// Channels: one of the two is empty.
int64_t size(const std::vector<float>& scale, const OwnedPrelu& prelu) {
  return static_cast<int64_t>(scale.size() + prelu.slope.size());
}

std::vector<float> repeated(const std::vector<float>& channels) {
  constexpr size_t kEnough = 64;
  std::vector<float> result(channels);
  while (!channels.empty() && result.size() < kEnough) result.insert(result.end(), channels.begin(), channels.end());
  return result;
}

}  // namespace

ChannelwiseOp::ChannelwiseOp(int kind, int64_t pixels, const std::vector<float>& scale,
                             const std::vector<float>& shift, const OwnedPrelu& p)
    : Operation({pixels * size(scale, p) * (kind == ELEMENTWISE_NORMALIZE ? 1 : kFloat)},
                {pixels * size(scale, p) * kFloat}),
      kind_(kind), count_(output_bytes()[0] / kFloat), scale_(repeated(scale)), shift_(repeated(shift)),
      prelu_({repeated(p.scale), repeated(p.shift), repeated(p.slope), repeated(p.after_scale),
              repeated(p.after_shift)}),
      kernel_(elementwise_kernel()), level_(float_level()) {}

void ChannelwiseOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const int64_t count = batch * count_, width = static_cast<int64_t>(scale_.size() + prelu_.slope.size());
  Elementwise work = {};
  work.kind = kind_;
  work.rows = count / width;
  work.channels = width;
  work.x = inputs[0];
  work.scale = scale_.data();
  work.shift = shift_.data();
  work.prelu = prelu_.view();
  work.out = floats(outputs[0]);
  run_elementwise(kernel_, work, threads);
  const int64_t done = work.rows * width;
  work.rows = 1;
  work.channels = count - done;
  work.x = static_cast<const char*>(inputs[0]) + done * (kind_ == ELEMENTWISE_NORMALIZE ? 1 : kFloat);
  work.out += done;
  kernel_(&work);
}

UnaryOp::UnaryOp(int kind, int64_t count, float low, float high)
    : Operation({count * kFloat}, {count * kFloat}), kind_(kind), low_(low), high_(high),
      kernel_(elementwise_kernel()), level_(float_level()) {}

void UnaryOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  Elementwise work = {};
  work.kind = kind_;
  work.rows = batch * output_bytes()[0] / kFloat;
  work.channels = 1;
  work.x = inputs[0];
  work.low = low_;
  work.high = high_;
  work.out = floats(outputs[0]);
  run_elementwise(kernel_, work, threads);
}

BinaryOp::BinaryOp(int kind, int64_t count, int64_t channels)
    : Operation({count * kFloat, count / channels * kFloat}, {count * kFloat}), kind_(kind), channels_(channels),
      kernel_(elementwise_kernel()), level_(float_level()) {}

void BinaryOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  Elementwise work = {};
  work.kind = kind_;
  work.rows = batch * output_bytes()[0] / kFloat / channels_;
  work.channels = channels_;
  work.x = inputs[0];
  work.other = floats(inputs[1]);
  work.out = floats(outputs[0]);
  run_elementwise(kernel_, work, threads);
}

TransposeOp::TransposeOp(int64_t rows, int64_t columns, int64_t element_bytes)
    : Operation({rows * columns * element_bytes}, {rows * columns * element_bytes}), rows_(rows), columns_(columns),
      element_bytes_(element_bytes) {}

void TransposeOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const int64_t bytes = input_bytes()[0];
  parallel_for(batch, threads, [&](int64_t image) {
    transpose_portable(rows_, columns_, element_bytes_, static_cast<const char*>(inputs[0]) + image * bytes,
                       static_cast<char*>(outputs[0]) + image * bytes);
  });
}

namespace {

using Axes = std::vector<PadOp::Axis>;

Sizes sizes_of(const Axes& axes, int64_t (*size)(const PadOp::Axis&)) {
  Sizes sizes;
  for (const PadOp::Axis& axis : axes) sizes.push_back(size(axis));
  return sizes;
}
Sizes given(const Axes& axes) {
  return sizes_of(axes, [](const PadOp::Axis& a) { return a.size; });
}
Sizes padded(const Axes& axes) {
  return sizes_of(axes, [](const PadOp::Axis& a) { return a.before + a.count + a.after; });
}

}  // namespace

PadOp::PadOp(const Axes& axes, float value)
    : Operation({count_of(given(axes)) * kFloat}, {count_of(padded(axes)) * kFloat}),
      kept_(sizes_of(axes, [](const Axis& a) { return a.count; })), x_strides_(strides_of(given(axes))),
      y_strides_(strides_of(padded(axes))), value_(value) {
  for (size_t i = 0; i < axes.size(); ++i) {
    x_offset_ += axes[i].start * x_strides_[i];
    y_offset_ += axes[i].before * y_strides_[i];
    x_strides_[i] *= axes[i].step;
  }
}

void PadOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const int64_t in_count = input_bytes()[0] / kFloat, out_count = output_bytes()[0] / kFloat;
  const int64_t run = kept_.back(), step = x_strides_.back(), rows = count_of(kept_) / run;
  parallel_for(batch, threads, [&](int64_t image) {
    const float* x = floats(inputs[0]) + image * in_count + x_offset_;
    float* y = floats(outputs[0]) + image * out_count;
    if (rows * run < out_count) std::fill(y, y + out_count, value_);
    y += y_offset_;
    for_rows_of(kept_, x_strides_, y_strides_, [&](int64_t from, int64_t to) {
      if (step == 1) {
        std::copy(x + from, x + from + run, y + to);
        return;
      }
      for (int64_t i = 0; i < run; ++i) y[to + i] = x[from + i * step];
    });
  });
}

SliceOp::SliceOp(const Sizes& shape, int64_t axis, int64_t start, int64_t stop, int64_t step)
    : Operation({count_of(shape) * kFloat},
                {count_of(shape) / shape[axis] * ((stop - start + step - 1) / step) * kFloat}),
      outer_(count_of(shape.begin(), shape.begin() + axis)), length_(shape[axis]),
      inner_(count_of(shape.begin() + axis + 1, shape.end())), start_(start), step_(step),
      count_((stop - start + step - 1) / step) {}

void SliceOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  parallel_for(batch, threads, [&](int64_t image) {
    const float* x = floats(inputs[0]) + (image * outer_ * length_ + start_) * inner_;
    float* y = floats(outputs[0]) + image * outer_ * count_ * inner_;
    for (int64_t o = 0; o < outer_; ++o, x += length_ * inner_)
      for (int64_t i = 0; i < count_; ++i, y += inner_)
        std::copy(x + i * step_ * inner_, x + (i * step_ + 1) * inner_, y);
  });
}

namespace {

// In a few sums side by side, which vectors hold.
double sum_of(const float* x, int64_t count) {
  constexpr int64_t kSums = 8;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (int64_t k = 0; k < kSums; ++k) sums[k] += x[i + k];
  double total = 0;
  for (; i < count; ++i) total += x[i];
  for (double sum : sums) total += sum;
  return total;
}

Sizes kept(const Sizes& shape, const std::vector<bool>& reduced) {
  Sizes size(shape);
  for (size_t i = 0; i < size.size(); ++i)
    if (reduced[i]) size[i] = 1;
  return size;
}

}  // namespace

MeanOp::MeanOp(const Sizes& shape, const std::vector<bool>& reduced)
    : Operation({count_of(shape) * kFloat}, {count_of(kept(shape, reduced)) * kFloat}), shape_(shape),
      strides_(strides_of(kept(shape, reduced))), in_count_(count_of(shape)), out_count_(output_bytes()[0] / kFloat) {
  for (size_t i = 0; i < shape.size(); ++i)
    if (reduced[i]) strides_[i] = 0;
}

void MeanOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  parallel_for(batch, threads, [&](int64_t image) {
    const float* x = floats(inputs[0]) + image * in_count_;
    float* y = floats(outputs[0]) + image * out_count_;
    auto* sums = static_cast<double*>(thread_scratch(out_count_ * sizeof(double)));
    std::fill(sums, sums + out_count_, 0.0);
    for_rows(shape_, strides_, [&](int64_t from, int64_t to, int64_t run) {
      if (strides_.back() == 0) {
        sums[to] += sum_of(x + from, run);
        return;
      }
      for (int64_t i = 0; i < run; ++i) sums[to + i * strides_.back()] += x[from + i];
    });
    const double divisor = static_cast<double>(in_count_ / out_count_);
    for (int64_t i = 0; i < out_count_; ++i) y[i] = static_cast<float>(sums[i] / divisor);
  });
}

SoftmaxOp::SoftmaxOp(const Sizes& shape, int64_t axis)
    : Operation({count_of(shape) * kFloat}, {count_of(shape) * kFloat}),
      outer_(count_of(shape.begin(), shape.begin() + axis)), length_(shape[axis]),
      inner_(count_of(shape.begin() + axis + 1, shape.end())) {}

void SoftmaxOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  parallel_for(batch * outer_, threads, [&](int64_t row) {
    auto* powers = static_cast<double*>(thread_scratch(length_ * sizeof(double)));
    for (int64_t i = 0; i < inner_; ++i) {
      const float* x = floats(inputs[0]) + row * length_ * inner_ + i;
      float* y = floats(outputs[0]) + row * length_ * inner_ + i;
      float most = -std::numeric_limits<float>::infinity();
      for (int64_t k = 0; k < length_; ++k) most = std::max(most, x[k * inner_]);
      double sum = 0;
      for (int64_t k = 0; k < length_; ++k) sum += powers[k] = std::exp(static_cast<double>(x[k * inner_]) - most);
      for (int64_t k = 0; k < length_; ++k) y[k * inner_] = static_cast<float>(powers[k] / sum);
    }
  });
}
