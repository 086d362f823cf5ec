// Bindings of operations on bits: popcount convolutions, encoding floats, pooling codes.
#include <stdexcept>

#include "bind_operations.h"
#include "bit_conv.h"
#include "encoding.h"

namespace {

void make_conv(BitConvOp* self, const Conv2dShape& s, const CodeLayout& x, int low, int step, const Array& weights,
               int padding, const Finish& finish) {
  check_input_layout(x, s);
  check_finish(finish, s);
  if (!x.planes) refuse("the layout of x has bytes, expected planes of bits");
  if (step != 1 && step != 2) refuse("step is " + std::to_string(step) + ", expected 1 or 2");
  check_pair({low, padding}, -65536, "(low, padding)");
  const auto* w = data<int8_t>(weights, 4, "weights");
  const int64_t expected[] = {s.out_c, s.in_c / s.groups, s.kernel_h, s.kernel_w};
  for (int i = 0; i < 4; ++i)
    if (static_cast<int64_t>(weights.shape(i)) != expected[i])
      refuse("weights has shape " + shape_text(weights) + ", expected [O][C / groups][kernel_h][kernel_w] of the window");
  const int most = finish.negative.empty() ? 8 : 1;
  for (size_t i = 0; i < weights.size(); ++i)
    if (w[i] < -most || w[i] > most)
      refuse("weights has " + std::to_string(w[i]) + ", expected at most " + std::to_string(most) + " in magnitude");
  product({s.groups * padded_channels(s.out_c / s.groups), 5 * 4 * code_group_units(&x), s.kernel_h, s.kernel_w},
          "the packed weights");
  try {
    new (self) BitConvOp(s, x, low, step, w, padding, finish);
  } catch (const std::invalid_argument& e) {
    refuse(e.what());
  }
}

void make_pool(PoolCodesOp* self, const Conv2dShape& s, const CodeLayout& x, const CodeLayout& out) {
  if (x.height != s.in_h || x.width != s.in_w || x.channels != s.in_c)
    refuse("the layout of x is not that of the window's image and channels");
  // One more than the window counts: its last position in ceil mode.
  if (out.height < 1 || out.height > s.out_h + 1 || out.width < 1 || out.width > s.out_w + 1)
    refuse("the layout of the result is not that of the window's output");
  if (out.channels != x.channels || out.groups != x.groups || out.planes != x.planes)
    refuse("the layout of the result has other channels, groups or planes than that of x");
  new (self) PoolCodesOp(s, x, out);
}

}  // namespace

void bind_bits(nb::module_& m) {
  nb::class_<EncodeOp, Operation>(m, "EncodeOp")
      .def("__init__", [](EncodeOp* self, const OwnedEncode& encode) { new (self) EncodeOp(encode); }, nb::arg("encode"));
  nb::class_<PoolCodesOp, Operation>(m, "PoolCodesOp")
      .def("__init__", &make_pool, nb::arg("window"), nb::arg("x"), nb::arg("out"));
  nb::class_<BitConvOp, Operation>(m, "BitConvOp")
      .def("__init__", &make_conv, nb::arg("window"), nb::arg("x"), nb::arg("low"), nb::arg("step"), nb::arg("weights"),
           nb::arg("padding") = 0, nb::kw_only(), nb::arg("finish"));
}
