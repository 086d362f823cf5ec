// Bindings of the portable operations for sign, quantize and integer layers.
#include "bind_operations.h"
#include "exact.h"

namespace {

void make_quantize(QuantizeOp* self, int64_t pixels, const Array& scale, const Array& reciprocal, const Array& low,
                   const Array& high) {
  check_pair({pixels, pixels}, 1, "pixels");
  if (scale.ndim() != 1) refuse("scale has shape " + shape_text(scale) + ", expected 1 dimension");
  const auto channels = static_cast<int64_t>(scale.shape(0));
  product({pixels, channels, 4}, "the result");
  new (self)
      QuantizeOp(pixels, {channel_vector(scale, channels, "scale"), channel_vector(reciprocal, channels, "reciprocal"),
                          channel_vector(low, channels, "low"), channel_vector(high, channels, "high")});
}

void make_conv(ExactConvOp* self, const Conv2dShape& s, float reciprocal, const Array& weights, int32_t padding,
               const Finish& finish) {
  check_finish(finish, s);
  if (finish.multiplier.empty()) refuse("finish has no multiplier, expected the scales of exact sums");
  if (finish.encode) refuse("finish has an encode, expected none: an EncodeOp follows");
  new (self) ExactConvOp(s, reciprocal, conv_weights(weights, s), padding, finish);
}

}  // namespace

void bind_exact(nb::module_& m) {
  nb::class_<SignOp, Operation>(m, "SignOp")
      .def("__init__",
           [](SignOp* self, int64_t count) {
             check_pair({count, count}, 1, "count");
             new (self) SignOp(count);
           },
           nb::arg("count"));
  nb::class_<QuantizeOp, Operation>(m, "QuantizeOp")
      .def("__init__", &make_quantize, nb::arg("pixels"), nb::arg("scale"), nb::arg("reciprocal"), nb::arg("low"),
           nb::arg("high"));
  nb::class_<ExactConvOp, Operation>(m, "ExactConvOp")
      .def("__init__", &make_conv, nb::arg("window"), nb::arg("reciprocal"), nb::arg("weights"), nb::arg("padding") = 0,
           nb::kw_only(), nb::arg("finish"));
}
