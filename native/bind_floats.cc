// Bindings of float operations: convolution, linear, pooling, element-wise, and what only moves numbers.
#include <nanobind/stl/shared_ptr.h>

#include <limits>

#include "bind_operations.h"
#include "floats.h"
#include "pooled.h"

namespace {

std::string text(Pair p) { return std::to_string(p.first) + " x " + std::to_string(p.second); }

const float* weight_data(const Array& weight, const Sizes& shape) {
  const float* w = data<float>(weight, static_cast<int>(shape.size()), "weight");
  std::string expected;
  for (int64_t size : shape) expected += (expected.empty() ? "(" : ", ") + std::to_string(size);
  for (size_t i = 0; i < shape.size(); ++i)
    if (static_cast<int64_t>(weight.shape(i)) != shape[i])
      refuse("weight has shape " + shape_text(weight) + ", expected " + expected + ")");
  return w;
}

void make_conv(FloatConvOp* self, const Conv2dShape& s, const Array& weight, const Finish& finish) {
  check_finish(finish, s);
  check_float_finish(finish);
  const float* w = weight_data(weight, {s.out_c, s.in_c / s.groups, s.kernel_h, s.kernel_w});
  const int64_t padded_c = padded_channels(s.out_c / s.groups) * s.groups;
  product({padded_c, s.in_c / s.groups, s.kernel_h, s.kernel_w}, "the packed weight");
  new (self) FloatConvOp(s, w, finish);
}

void make_linear(FloatLinearOp* self, int64_t in_c, const Array& weight, const Finish& finish) {
  check_pair({in_c, in_c}, 0, "in_c");
  check_float_finish(finish);
  const float* w = weight_data(weight, {finish.channels, in_c});
  product(padded_channels(finish.channels), in_c, "the packed weight");
  new (self) FloatLinearOp(in_c, w, finish);
}

// As PyTorch: the last window may hang over the right padding in ceil mode, but must begin inside the image or the left
// padding.
int64_t pool_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation, bool ceil) {
  const int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  if (room < 0 && !(ceil && room + stride - 1 >= 0)) return -1;
  const int64_t count = (room + (ceil ? stride - 1 : 0)) / stride + 1;
  return ceil && (count - 1) * stride >= size + pad ? count - 1 : count;
}

void check_image(Pair image, int64_t channels) {
  check_pair(image, 1, "image");
  check_pair({channels, channels}, 1, "channels");
  product({image.first, image.second, channels}, "the image");
}

PoolShape make_pool(int kind, Pair image, int64_t channels, Pair kernel, Pair stride, Pair padding, Pair dilation,
                    bool ceil, bool count_include_pad) {
  check_image(image, channels);
  check_pair(kernel, 1, "kernel");
  check_pair(stride, 1, "stride");
  check_pair(padding, 0, "padding");
  check_pair(dilation, 1, "dilation");
  const Pair reach = {dilation.first * (kernel.first - 1) + 1, dilation.second * (kernel.second - 1) + 1};
  if (padding.first > reach.first / 2 || padding.second > reach.second / 2)
    refuse("padding is " + text(padding) + ", expected at most half of the window of " + text(reach));
  const int64_t out_h = pool_size(image.first, kernel.first, stride.first, padding.first, dilation.first, ceil);
  const int64_t out_w = pool_size(image.second, kernel.second, stride.second, padding.second, dilation.second, ceil);
  if (out_h < 1 || out_w < 1)
    refuse("the image is " + text(image) + ", expected at least the window of " + text(reach) +
           " less twice the padding");
  product({out_h, out_w, channels}, "the result");
  return {kind,          image.first,   image.second,   channels,       out_h,           out_w,
          kernel.first,  kernel.second, stride.first,   stride.second,  padding.first,   padding.second,
          dilation.first, dilation.second, count_include_pad};
}

struct MaxPoolOp : PoolOp { using PoolOp::PoolOp; };
struct AvgPoolOp : PoolOp { using PoolOp::PoolOp; };
struct AdaptiveAvgPoolOp : PoolOp { using PoolOp::PoolOp; };
struct AdaptiveMaxPoolOp : PoolOp { using PoolOp::PoolOp; };

PoolShape make_adaptive(int kind, Pair image, int64_t channels, Pair size) {
  check_image(image, channels);
  check_pair(size, 1, "size");
  product({size.first, size.second, channels}, "the result");
  PoolShape s = {};
  s.kind = kind;
  s.in_h = image.first, s.in_w = image.second, s.channels = channels;
  s.out_h = size.first, s.out_w = size.second;
  s.kernel_h = (s.in_h + size.first - 1) / size.first, s.kernel_w = (s.in_w + size.second - 1) / size.second;
  return s;
}

void make_pooled(PooledOp* self, std::shared_ptr<RowOperation> layer, Pair kernel, Pair stride, Pair padding,
                 Pair dilation, bool ceil, bool out, const std::optional<OwnedEncode>& encode) {
  const Conv2dShape& s = layer->window();
  const PoolShape pool =
      make_pool(POOL_MAX, {s.out_h, s.out_w}, s.out_c, kernel, stride, padding, dilation, ceil, false);
  if (!layer->makes_floats_only())
    refuse("the layer's finish has an encode or no out, expected floats and nothing else");
  if (encode) {
    const CodeLayout& l = encode->layout;
    if (l.height != pool.out_h || l.width != pool.out_w || l.channels != s.out_c)
      refuse("the layout of the encoded result is not that of the pool's output");
  } else if (!out) {
    refuse("out is false and there is no encode, expected one of them");
  }
  new (self) PooledOp(std::move(layer), pool, out, encode);
}

struct AffineOp : ChannelwiseOp { using ChannelwiseOp::ChannelwiseOp; };
struct NormalizeOp : ChannelwiseOp { using ChannelwiseOp::ChannelwiseOp; };
struct PreluOp : ChannelwiseOp { using ChannelwiseOp::ChannelwiseOp; };
struct ReluOp : UnaryOp { using UnaryOp::UnaryOp; };
struct ClampOp : UnaryOp { using UnaryOp::UnaryOp; };
struct AbsOp : UnaryOp { using UnaryOp::UnaryOp; };
struct CurveOp : UnaryOp { using UnaryOp::UnaryOp; };
struct AddOp : BinaryOp { using BinaryOp::BinaryOp; };
struct MulOp : BinaryOp { using BinaryOp::BinaryOp; };

template <class Op>
void make_affine(Op* self, int64_t pixels, const Array& scale, const Array& shift, bool bytes) {
  check_pair({pixels, pixels}, 1, "pixels");
  if (scale.ndim() != 1) refuse("scale has shape " + shape_text(scale) + ", expected 1 dimension");
  const auto channels = static_cast<int64_t>(scale.shape(0));
  product(pixels, channels, "the result");
  new (self) Op(bytes ? ELEMENTWISE_NORMALIZE : ELEMENTWISE_AFFINE, pixels, channel_vector(scale, channels, "scale"),
                channel_vector(shift, channels, "shift"), {});
}

void make_prelu(PreluOp* self, int64_t pixels, const OwnedPrelu& prelu) {
  check_pair({pixels, pixels}, 1, "pixels");
  product(pixels, static_cast<int64_t>(prelu.slope.size()), "the result");
  new (self) PreluOp(ELEMENTWISE_PRELU, pixels, {}, {}, prelu);
}

int64_t checked_count(int64_t count) {
  check_pair({count, count}, 1, "count");
  return count;
}

// Of the second input there is an element for each of the first, or for every `channels` of it (`rows`).
template <class Op>
void make_binary(Op* self, int elements, int rows, int64_t count, int64_t channels) {
  checked_count(count);
  if (channels < 1 || count % channels)
    refuse("channels is " + std::to_string(channels) + ", expected a divisor of the count");
  new (self) Op(channels == 1 ? elements : rows, count, channels);
}

void make_curve(CurveOp* self, const std::string& curve, int64_t count, float alpha) {
  const std::pair<const char*, int> known[] = {{"sigmoid", ELEMENTWISE_SIGMOID}, {"tanh", ELEMENTWISE_TANH},
                                               {"elu", ELEMENTWISE_ELU}, {"gelu", ELEMENTWISE_GELU},
                                               {"sqrt", ELEMENTWISE_SQRT}, {"rsqrt", ELEMENTWISE_RSQRT}};
  for (const auto& [name, kind] : known)
    if (curve == name) {
      new (self) CurveOp(kind, checked_count(count), alpha, 0);
      return;
    }
  refuse("curve is '" + curve + "', expected sigmoid, tanh, elu, gelu, sqrt or rsqrt");
}

void check_shape(const Sizes& shape) {
  if (shape.empty()) refuse("shape has no axes, expected at least one");
  for (int64_t size : shape) check_pair({size, size}, 1, "shape");
  product(shape, "x");
}

void check_axis(const Sizes& shape, int64_t axis) {
  if (axis < 0 || axis >= static_cast<int64_t>(shape.size()))
    refuse("axis is " + std::to_string(axis) + ", expected 0 to " + std::to_string(shape.size() - 1));
}

void make_pad(PadOp* self, const Sizes& shape, const Sizes& before, const Sizes& after, float value, const Sizes& start,
              const Sizes& step, const Sizes& count) {
  check_shape(shape);
  const size_t rank = shape.size();
  if (before.size() != rank || after.size() != rank)
    refuse("before and after have " + std::to_string(before.size()) + " and " + std::to_string(after.size()) +
           " entries, expected one per axis: " + std::to_string(rank));
  for (const Sizes* cut : {&start, &step, &count})
    if (cut->size() != start.size() || (!cut->empty() && cut->size() != rank))
      refuse("start, step and count have other numbers of entries than the shape, expected one per axis or none");
  std::vector<PadOp::Axis> axes;
  Sizes size(rank);
  for (size_t i = 0; i < rank; ++i) {
    check_pair({before[i], after[i]}, 0, "(before, after)");
    const bool cut = !start.empty();
    axes.push_back({shape[i], cut ? start[i] : 0, cut ? step[i] : 1, cut ? count[i] : shape[i], before[i], after[i]});
    check_pair({axes[i].step, axes[i].count}, 1, "(step, count)");
    check_pair({axes[i].start, axes[i].start}, 0, "start");
    if (axes[i].start >= shape[i] || (axes[i].count - 1) > (shape[i] - 1 - axes[i].start) / axes[i].step)
      refuse("what is kept of axis " + std::to_string(i) + " does not lie in the shape");
    size[i] = before[i] + axes[i].count + after[i];
  }
  product(size, "the result");
  new (self) PadOp(axes, value);
}

void make_slice(SliceOp* self, const Sizes& shape, int64_t axis, int64_t start, int64_t stop, int64_t step) {
  check_shape(shape);
  check_axis(shape, axis);
  check_pair({step, step}, 1, "step");
  if (start < 0 || stop <= start || stop > shape[axis])
    refuse("start and stop are " + std::to_string(start) + " and " + std::to_string(stop) +
           ", expected 0 <= start < stop <= " + std::to_string(shape[axis]));
  new (self) SliceOp(shape, axis, start, stop, step);
}

void make_mean(MeanOp* self, const Sizes& shape, const Sizes& axes) {
  check_shape(shape);
  std::vector<bool> reduced(shape.size());
  for (int64_t axis : axes) {
    check_axis(shape, axis);
    reduced[axis] = true;
  }
  new (self) MeanOp(shape, reduced);
}

}  // namespace

void bind_floats(nb::module_& m) {
  const Pair none = {0, 0}, one = {1, 1};
  nb::class_<FloatConvOp, RowOperation>(m, "FloatConvOp")
      .def("__init__", &make_conv, nb::arg("window"), nb::arg("weight"), nb::arg("finish"));
  nb::class_<FloatLinearOp, Operation>(m, "FloatLinearOp")
      .def("__init__", &make_linear, nb::arg("in_c"), nb::arg("weight"), nb::arg("finish"));
  nb::class_<MaxPoolOp, Operation>(m, "MaxPoolOp")
      .def("__init__", [](MaxPoolOp* self, Pair image, int64_t channels, Pair kernel, Pair stride, Pair padding,
                          Pair dilation, bool ceil) {
             new (self) MaxPoolOp(make_pool(POOL_MAX, image, channels, kernel, stride, padding, dilation, ceil, false));
           },
           nb::arg("image"), nb::arg("channels"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding") = none,
           nb::arg("dilation") = one, nb::arg("ceil") = false);
  nb::class_<PooledOp, Operation>(m, "PooledOp")
      .def("__init__", &make_pooled, nb::arg("layer"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding") = none,
           nb::arg("dilation") = one, nb::arg("ceil") = false, nb::kw_only(), nb::arg("out") = true,
           nb::arg("encode") = nb::none());
  nb::class_<AvgPoolOp, Operation>(m, "AvgPoolOp")
      .def("__init__", [](AvgPoolOp* self, Pair image, int64_t channels, Pair kernel, Pair stride, Pair padding,
                          bool ceil, bool count_include_pad) {
             new (self) AvgPoolOp(
                 make_pool(POOL_MEAN, image, channels, kernel, stride, padding, {1, 1}, ceil, count_include_pad));
           },
           nb::arg("image"), nb::arg("channels"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding") = none,
           nb::arg("ceil") = false, nb::arg("count_include_pad") = true);
  nb::class_<AdaptiveAvgPoolOp, Operation>(m, "AdaptiveAvgPoolOp")
      .def("__init__", [](AdaptiveAvgPoolOp* self, Pair image, int64_t channels, Pair size) {
             new (self) AdaptiveAvgPoolOp(make_adaptive(POOL_ADAPTIVE_MEAN, image, channels, size));
           },
           nb::arg("image"), nb::arg("channels"), nb::arg("size"));
  nb::class_<AdaptiveMaxPoolOp, Operation>(m, "AdaptiveMaxPoolOp")
      .def("__init__", [](AdaptiveMaxPoolOp* self, Pair image, int64_t channels, Pair size) {
             new (self) AdaptiveMaxPoolOp(make_adaptive(POOL_ADAPTIVE_MAX, image, channels, size));
           },
           nb::arg("image"), nb::arg("channels"), nb::arg("size"));
  nb::class_<AffineOp, Operation>(m, "AffineOp")
      .def("__init__", [](AffineOp* self, int64_t pixels, const Array& scale, const Array& shift) {
             make_affine(self, pixels, scale, shift, false);
           },
           nb::arg("pixels"), nb::arg("scale"), nb::arg("shift"));
  nb::class_<NormalizeOp, Operation>(m, "NormalizeOp")
      .def("__init__", &make_affine<NormalizeOp>, nb::arg("pixels"), nb::arg("scale"), nb::arg("shift"),
           nb::arg("uint8") = false);
  nb::class_<PreluOp, Operation>(m, "PreluOp")
      .def("__init__", &make_prelu, nb::arg("pixels"), nb::arg("prelu"));
  nb::class_<ReluOp, Operation>(m, "ReluOp")
      .def("__init__", [](ReluOp* self, int64_t count) {
             new (self) ReluOp(ELEMENTWISE_CLAMP, checked_count(count), 0.0f, std::numeric_limits<float>::infinity());
           },
           nb::arg("count"));
  nb::class_<ClampOp, Operation>(m, "ClampOp")
      .def("__init__", [](ClampOp* self, int64_t count, float low, float high) {
             if (!(low <= high)) refuse("low and high: found low > high or NaN, expected low <= high");
             new (self) ClampOp(ELEMENTWISE_CLAMP, checked_count(count), low, high);
           },
           nb::arg("count"), nb::arg("low"), nb::arg("high"));
  nb::class_<AbsOp, Operation>(m, "AbsOp")
      .def("__init__",
           [](AbsOp* self, int64_t count) { new (self) AbsOp(ELEMENTWISE_ABS, checked_count(count), 0, 0); },
           nb::arg("count"));
  nb::class_<CurveOp, Operation>(m, "CurveOp")
      .def("__init__", &make_curve, nb::arg("curve"), nb::arg("count"), nb::arg("alpha") = 1.0f);
  nb::class_<AddOp, Operation>(m, "AddOp")
      .def("__init__", [](AddOp* self, int64_t count, int64_t channels) {
             make_binary(self, ELEMENTWISE_ADD, ELEMENTWISE_ADD_ROWS, count, channels);
           },
           nb::arg("count"), nb::arg("channels") = 1);
  nb::class_<MulOp, Operation>(m, "MulOp")
      .def("__init__", [](MulOp* self, int64_t count, int64_t channels) {
             make_binary(self, ELEMENTWISE_MUL, ELEMENTWISE_MUL_ROWS, count, channels);
           },
           nb::arg("count"), nb::arg("channels") = 1);
  nb::class_<TransposeOp, Operation>(m, "TransposeOp")
      .def("__init__", [](TransposeOp* self, int64_t rows, int64_t columns, int64_t element_bytes) {
             check_pair({rows, columns}, 1, "(rows, columns)");
             if (element_bytes != 1 && element_bytes != 4)
               refuse("element_bytes is " + std::to_string(element_bytes) + ", expected 1 or 4");
             product({rows, columns, element_bytes}, "x");
             new (self) TransposeOp(rows, columns, element_bytes);
           },
           nb::arg("rows"), nb::arg("columns"), nb::arg("element_bytes") = 4);
  nb::class_<PadOp, Operation>(m, "PadOp")
      .def("__init__", &make_pad, nb::arg("shape"), nb::arg("before"), nb::arg("after"), nb::arg("value"),
           nb::arg("start") = Sizes(), nb::arg("step") = Sizes(), nb::arg("count") = Sizes());
  nb::class_<SliceOp, Operation>(m, "SliceOp")
      .def("__init__", &make_slice, nb::arg("shape"), nb::arg("axis"), nb::arg("start"), nb::arg("stop"),
           nb::arg("step") = 1);
  nb::class_<MeanOp, Operation>(m, "MeanOp").def("__init__", &make_mean, nb::arg("shape"), nb::arg("axes"));
  nb::class_<SoftmaxOp, Operation>(m, "SoftmaxOp")
      .def("__init__", [](SoftmaxOp* self, const Sizes& shape, int64_t axis) {
             check_shape(shape);
             check_axis(shape, axis);
             new (self) SoftmaxOp(shape, axis);
           },
           nb::arg("shape"), nb::arg("axis"));
  m.def("fma_seconds", &fma_seconds, nb::arg("operations"));
}
