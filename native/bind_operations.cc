// Bindings of what all operations share: layouts, epilogues, windows, and running one alone.
#include "bind_operations.h"
#include "bind_unlocked.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "cpu.h"
#include "weights.h"

namespace {

using Bytes = nb::ndarray<nb::numpy, uint8_t>;
using Optional = std::optional<Array>;
using Limits = std::optional<std::pair<float, float>>;

void check_size(int64_t value, int64_t least, const char* name) { check_pair({value, value}, least, name); }

CodeLayout make_layout(int64_t height, int64_t width, int64_t channels, int64_t groups, int64_t top, int64_t left,
                       int64_t bottom, int64_t right, int64_t planes) {
  check_pair({height, width}, 1, "(height, width)");
  check_size(channels, 1, "channels");
  check_size(groups, 1, "groups");
  check_pair({top, left}, 0, "(top, left)");
  check_pair({bottom, right}, 0, "(bottom, right)");
  check_size(planes, 0, "planes");
  if (planes > 8) refuse("planes is " + std::to_string(planes) + ", expected 0 (bytes) to 8");
  if (channels % groups) refuse("channels is " + std::to_string(channels) + ", expected a multiple of the groups");
  const CodeLayout layout = {height, width, channels, groups, top, left, bottom, right, planes};
  product({top + height + bottom, left + width + right, code_pixel_units(&layout), planes ? 4 * planes : 1},
          "the codes");
  return layout;
}

OwnedEncode make_encode(const std::string& kind, const CodeLayout& layout, const Optional& scale, const Optional& shift,
                        float reciprocal, float low, float high) {
  if (kind != "sign" && kind != "quantize") refuse("kind is '" + kind + "', expected 'sign' or 'quantize'");
  if (scale.has_value() != shift.has_value()) refuse("scale and shift: found one of them, expected both or neither");
  OwnedEncode e;
  e.kind = kind == "sign" ? ENCODE_SIGN : ENCODE_QUANTIZE;
  e.scale = channel_vector(scale, layout.channels, "scale");
  e.shift = channel_vector(shift, layout.channels, "shift");
  e.reciprocal = reciprocal;
  e.low = e.kind == ENCODE_SIGN ? 0 : low;
  e.high = e.kind == ENCODE_SIGN ? 1 : high;
  e.layout = layout;
  const float most = static_cast<float>((1 << (layout.planes ? layout.planes : 8)) - 1);
  if (!(e.high > e.low) || e.high - e.low > most || e.low != std::rint(e.low) || e.high != std::rint(e.high) ||
      !(std::fabs(e.low) <= 65536))
    refuse("low and high are " + std::to_string(low) + " and " + std::to_string(high) +
           ", expected whole numbers whose codes fit the layout");
  return e;
}

OwnedPrelu make_prelu(const Array& slope, const Optional& scale, const Optional& shift, const Optional& after_scale,
                      const Optional& after_shift) {
  if (slope.ndim() != 1) refuse("slope has shape " + shape_text(slope) + ", expected 1 dimension");
  const auto channels = static_cast<int64_t>(slope.shape(0));
  const auto vector = [&](const Optional& v, float missing, const char* name) {
    return v ? channel_vector(v, channels, name) : std::vector<float>(channels, missing);
  };
  return {vector(scale, 1, "scale"), vector(shift, 0, "shift"), vector(slope, 0, "slope"),
          vector(after_scale, 1, "after_scale"), vector(after_shift, 0, "after_shift")};
}

Finish make_finish(int64_t channels, const Optional& multiplier, const Optional& negative, const Optional& bias,
                   const Optional& scale, const Optional& shift, bool residual, bool relu,
                   const std::optional<OwnedPrelu>& prelu, const Limits& limits, bool out,
                   const std::optional<OwnedEncode>& encode) {
  check_size(channels, 1, "channels");
  if (scale.has_value() != shift.has_value()) refuse("scale and shift: found one of them, expected both or neither");
  if (!out && !encode) refuse("out is false and there is no encode: nothing would be written");
  if (prelu && static_cast<int64_t>(prelu->slope.size()) != channels)
    refuse("prelu has other channels than the finish");
  if (encode && encode->layout.channels != channels) refuse("encode has other channels than the finish");
  Finish f;
  f.channels = channels;
  f.multiplier = channel_vector(multiplier, channels, "multiplier");
  f.negative = channel_vector(negative, channels, "negative");
  f.bias = channel_vector(bias, channels, "bias");
  f.scale = channel_vector(scale, channels, "scale");
  f.shift = channel_vector(shift, channels, "shift");
  f.residual = residual;
  f.relu = relu;
  if (prelu) f.prelu = *prelu;
  if (limits && !(limits->first <= limits->second)) refuse("limits: found low > high or NaN, expected low <= high");
  f.limits = limits;
  f.out = out;
  f.encode = encode;
  return f;
}

int64_t window_count(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

Conv2dShape make_window(Pair image, int64_t in_c, int64_t out_c, Pair kernel, Pair stride, Pair padding, Pair dilation,
                        int64_t groups) {
  check_pair(image, 1, "image");
  check_pair({in_c, out_c}, 1, "(in_c, out_c)");
  check_pair(kernel, 1, "kernel");
  check_pair(stride, 1, "stride");
  check_pair(padding, 0, "padding");
  check_pair(dilation, 1, "dilation");
  if (groups < 1 || in_c % groups || out_c % groups)
    refuse("groups is " + std::to_string(groups) + ", expected a divisor of the channels");
  const int64_t out_h = window_count(image.first, kernel.first, stride.first, padding.first, dilation.first);
  const int64_t out_w = window_count(image.second, kernel.second, stride.second, padding.second, dilation.second);
  if (out_h < 1 || out_w < 1) refuse("the window is larger than the padded image");
  product({image.first + 2 * padding.first, image.second + 2 * padding.second, in_c}, "the padded image");
  product({out_h, out_w, out_c}, "the result");
  const auto [in_h, in_w] = image;
  return {1, in_h, in_w, in_c, out_h, out_w, out_c, kernel.first, kernel.second, stride.first, stride.second,
          padding.first, padding.second, dilation.first, dilation.second, groups};
}

// Buffers of an operation, with bytes of a pattern before and behind every output: what an operation forgets to write
// shows, and what it writes beyond its outputs is refused.
class Buffers {
 public:
  Buffers(const Operation& operation, const std::vector<Array>& inputs, int64_t batch)
      : bytes_(operation.output_bytes()) {
    const auto& wanted = operation.input_bytes();
    if (inputs.size() != wanted.size())
      refuse("there are " + std::to_string(inputs.size()) + " inputs, expected " + std::to_string(wanted.size()));
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto bytes = static_cast<int64_t>(inputs[i].nbytes());
      if (bytes != batch * wanted[i])
        refuse("input " + std::to_string(i) + " has " + std::to_string(bytes) + " bytes, expected " +
               std::to_string(batch * wanted[i]));
      const int64_t size = bytes + (kGuarded && operation.exact_reads() ? 0 : BUFFER_SLACK);
      inputs_.emplace_back(size);
      // Guarded memory ends where the operation may not read any more.
      uint8_t* copy = inputs_.back().data() + (kGuarded ? memory_size(size) - size : 0);
      std::memcpy(copy, checked_data(inputs[i], inputs[i].dtype(), -1, "an input"), bytes);
      in_.push_back(copy);
    }
    for (int64_t& bytes : bytes_) {
      bytes *= batch;
      outputs_.emplace_back(MARGIN + bytes + BUFFER_SLACK);
      std::memset(outputs_.back().data(), PATTERN, MARGIN + bytes + BUFFER_SLACK);
      out_.push_back(outputs_.back().data() + MARGIN);
    }
  }

  const void* const* in() const { return in_.data(); }
  void* const* out() const { return out_.data(); }

  void check_margins() const {
    const auto changed = [](uint8_t byte) { return byte != PATTERN; };
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const uint8_t* output = outputs_[i].data();
      const uint8_t* behind = output + MARGIN + bytes_[i];
      if (std::any_of(output, output + MARGIN, changed) || std::any_of(behind, behind + BUFFER_SLACK, changed))
        throw std::runtime_error("the operation wrote beyond its output " + std::to_string(i));
    }
  }

  std::vector<Bytes> results() const {
    std::vector<Bytes> results;
    for (size_t i = 0; i < out_.size(); ++i) {
      auto* copy = new std::vector<uint8_t>(static_cast<uint8_t*>(out_[i]), static_cast<uint8_t*>(out_[i]) + bytes_[i]);
      nb::capsule owner(copy, [](void* p) noexcept { delete static_cast<std::vector<uint8_t>*>(p); });
      const size_t shape[1] = {copy->size()};
      results.emplace_back(copy->data(), 1, shape, owner);
    }
    return results;
  }

 private:
  static constexpr int64_t MARGIN = 64;
  static constexpr uint8_t PATTERN = 0xa5;
  std::vector<int64_t> bytes_;  // of all images
  std::vector<Aligned<uint8_t>> inputs_, outputs_;
  std::vector<const void*> in_;
  std::vector<void*> out_;
};

// Runs an operation on copies of the inputs. For tests of one kernel.
std::vector<Bytes> run_operation(const Operation& operation, const std::vector<Array>& inputs, int64_t batch,
                                 int threads) {
  check_threads(threads);
  check_size(batch, 0, "batch");
  Buffers buffers(operation, inputs, batch);
  {
    const Unlocked unlocked;
    operation.run(buffers.in(), buffers.out(), batch, threads);
  }
  buffers.check_margins();
  return buffers.results();
}

// An operation and buffers for several inputs, made once, so that nothing but its runs is timed.
class Stopwatch {
 public:
  Stopwatch(const Operation& operation, const std::vector<std::vector<Array>>& inputs, int64_t batch, int threads)
      : operation_(operation), batch_(batch), threads_(threads) {
    check_threads(threads);
    check_size(batch, 1, "batch");
    if (inputs.empty()) refuse("there are no inputs, expected at least one list of them");
    for (const auto& arrays : inputs) buffers_.push_back(std::make_unique<Buffers>(operation, arrays, batch));
  }

  Stopwatch(const Stopwatch&) = delete;

  // Seconds per run of `repeats` runs on the inputs in turn: of this thread's CPU time if it works alone.
  double seconds(int64_t repeats) const {
    check_size(repeats, 1, "repeats");
    const Unlocked unlocked;
    const double start = now();
    for (int64_t i = 0; i < repeats; ++i) {
      const Buffers& buffers = *buffers_[i % buffers_.size()];
      operation_.run(buffers.in(), buffers.out(), batch_, threads_);
    }
    return (now() - start) / static_cast<double>(repeats);
  }

 private:
  double now() const {
    timespec time;
    clock_gettime(threads_ == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

  const Operation& operation_;
  const int64_t batch_;
  const int threads_;
  std::vector<std::unique_ptr<Buffers>> buffers_;
};

}  // namespace

std::vector<float> channel_vector(const Optional& a, int64_t length, const char* name) {
  const float* values = channel_data(a, length, name);
  return values ? std::vector<float>(values, values + length) : std::vector<float>();
}

void check_input_layout(const CodeLayout& l, const Conv2dShape& s) {
  if (l.height != s.in_h || l.width != s.in_w || l.channels != s.in_c || l.groups != s.groups)
    refuse("the layout of x is not that of the window's image, channels and groups");
  const int64_t reach_h = (s.out_h - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1 - s.pad_h;
  const int64_t reach_w = (s.out_w - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1 - s.pad_w;
  if (l.top < s.pad_h || l.left < s.pad_w || l.height + l.bottom < reach_h || l.width + l.right < reach_w)
    refuse("the margins of x are smaller than the window's padding");
}

void check_simple(const Finish& f) {
  if (!f.prelu.slope.empty() || f.limits)
    refuse("finish has a prelu or limits, expected none: they belong to exact sums");
}

void check_finish(const Finish& f, const Conv2dShape& s) {
  if (f.channels != s.out_c)
    refuse("finish is for " + std::to_string(f.channels) + " channels, expected " + std::to_string(s.out_c));
  if (f.encode && (f.encode->layout.height != s.out_h || f.encode->layout.width != s.out_w))
    refuse("the layout of the encoded result is not that of the window's output");
}

void check_float_finish(const Finish& f) {
  if (!f.multiplier.empty() || !f.negative.empty())
    refuse("finish has a multiplier, expected none: sums of floats have no scale of their own");
  if (f.encode) refuse("finish has an encode, expected none: float operations are followed by an EncodeOp");
  check_simple(f);
}

const int8_t* conv_weights(const Array& weights, const Conv2dShape& s) {
  const auto* values = data<int8_t>(weights, 4, "weights");
  const int64_t expected[] = {s.out_c, s.in_c / s.groups, s.kernel_h, s.kernel_w};
  for (int i = 0; i < 4; ++i)
    if (static_cast<int64_t>(weights.shape(i)) != expected[i])
      refuse("weights has shape " + shape_text(weights) +
             ", expected [O, C / groups, kernel_h, kernel_w] of the window");
  return values;
}

double best_speed(int64_t (*loop)(int64_t repeats, int32_t* keep), int64_t repeats) {
  double best = 0;
  int32_t keep = 1;
  for (int run = 0; run < 20; ++run) {
    const auto start = std::chrono::steady_clock::now();
    const auto operations = static_cast<double>(repeats * loop(repeats, &keep));
    best = std::max(best, operations / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

void bind_operations(nb::module_& m) {
  const auto none = nb::none();
  nb::class_<CodeLayout>(m, "CodeLayout")
      .def(
          "__init__",
          [](CodeLayout* self, int64_t height, int64_t width, int64_t channels, int64_t groups, int64_t top,
             int64_t left, int64_t bottom, int64_t right, int64_t planes) {
            new (self) CodeLayout(make_layout(height, width, channels, groups, top, left, bottom, right, planes));
          },
          nb::arg("height"), nb::arg("width"), nb::arg("channels"), nb::arg("groups") = 1, nb::kw_only(),
          nb::arg("top") = 0, nb::arg("left") = 0, nb::arg("bottom") = 0, nb::arg("right") = 0, nb::arg("planes") = 1)
      .def_prop_ro("image_bytes", [](const CodeLayout& l) { return code_image_bytes(&l); });
  nb::class_<OwnedEncode>(m, "Encode")
      .def("__init__", [](OwnedEncode* self, const std::string& kind, const CodeLayout& layout, const Optional& scale,
                          const Optional& shift, float reciprocal, float low, float high) {
             new (self) OwnedEncode(make_encode(kind, layout, scale, shift, reciprocal, low, high));
           },
           nb::arg("kind"), nb::arg("layout"), nb::kw_only(), nb::arg("scale") = none, nb::arg("shift") = none,
           nb::arg("reciprocal") = 1.0f, nb::arg("low") = 0.0f, nb::arg("high") = 1.0f);
  nb::class_<OwnedPrelu>(m, "Prelu")
      .def("__init__", [](OwnedPrelu* self, const Array& slope, const Optional& scale, const Optional& shift,
                          const Optional& after_scale, const Optional& after_shift) {
             new (self) OwnedPrelu(make_prelu(slope, scale, shift, after_scale, after_shift));
           },
           nb::arg("slope"), nb::kw_only(), nb::arg("scale") = none, nb::arg("shift") = none,
           nb::arg("after_scale") = none, nb::arg("after_shift") = none);
  nb::class_<Finish>(m, "Finish")
      .def(
          "__init__",
          [](Finish* self, int64_t channels, const Optional& multiplier, const Optional& negative, const Optional& bias,
             const Optional& scale, const Optional& shift, bool residual, bool relu,
             const std::optional<OwnedPrelu>& prelu, const Limits& limits, bool out,
             const std::optional<OwnedEncode>& encode) {
            new (self)
                Finish(make_finish(channels, multiplier, negative, bias, scale, shift, residual, relu, prelu,
                                   limits, out, encode));
          },
          nb::arg("channels"), nb::kw_only(), nb::arg("multiplier") = none, nb::arg("negative") = none,
          nb::arg("bias") = none, nb::arg("scale") = none, nb::arg("shift") = none, nb::arg("residual") = false,
          nb::arg("relu") = false, nb::arg("prelu") = none, nb::arg("limits") = none, nb::arg("out") = true,
          nb::arg("encode") = none);
  nb::class_<Conv2dShape>(m, "Window")
      .def(
          "__init__",
          [](Conv2dShape* self, Pair image, int64_t in_c, int64_t out_c, Pair kernel, Pair stride, Pair padding,
             Pair dilation, int64_t groups) {
            new (self) Conv2dShape(make_window(image, in_c, out_c, kernel, stride, padding, dilation, groups));
          },
          nb::arg("image"), nb::arg("in_c"), nb::arg("out_c"), nb::arg("kernel") = Pair(1, 1),
          nb::arg("stride") = Pair(1, 1), nb::arg("padding") = Pair(0, 0), nb::arg("dilation") = Pair(1, 1),
          nb::arg("groups") = 1)
      .def_prop_ro("output", [](const Conv2dShape& s) { return std::vector<int64_t>{s.out_h, s.out_w, s.out_c}; });
  nb::class_<Operation>(m, "Operation")
      .def_prop_ro("kernel", &Operation::kernel)
      .def_prop_ro("weight_bytes", &Operation::weight_bytes)
      .def_prop_ro("input_bytes", &Operation::input_bytes)
      .def_prop_ro("output_bytes", &Operation::output_bytes);
  nb::class_<RowOperation, Operation>(m, "RowOperation");
  nb::class_<Stopwatch>(m, "Stopwatch")
      .def(nb::init<const Operation&, const std::vector<std::vector<Array>>&, int64_t, int>(), nb::keep_alive<1, 2>(),
           nb::arg("operation"), nb::arg("inputs"), nb::arg("batch") = 1, nb::arg("threads") = 1)
      .def("__call__", &Stopwatch::seconds, nb::arg("repeats"));
  m.def("run_operation", &run_operation, nb::arg("operation"), nb::arg("inputs"), nb::arg("batch") = 1,
        nb::arg("threads") = 1);
}
