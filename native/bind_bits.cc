// Bindings of operations on bits: popcount convolutions, encoding floats, pooling codes.
#include <stdexcept>

#include "bind_operations.h"
#include "bind_unlocked.h"
#include "bit_conv.h"
#include "cpu.h"
#include "encoding.h"

namespace {

void make_conv(BitConvOp* self, const Conv2dShape& s, const CodeLayout& x, int low, int step, const Array& weights,
               int padding, const Finish& finish, const std::string& kernel) {
  check_input_layout(x, s);
  check_finish(finish, s);
  if (!x.planes) refuse("the layout of x has bytes, expected planes of bits");
  if (step != 1 && step != 2) refuse("step is " + std::to_string(step) + ", expected 1 or 2");
  check_pair({low, padding}, -65536, "(low, padding)");
  const int8_t* w = conv_weights(weights, s);
  const int most = finish.negative.empty() ? 8 : 1;
  for (size_t i = 0; i < weights.size(); ++i)
    if (w[i] < -most || w[i] > most)
      refuse("weights has " + std::to_string(w[i]) + ", expected at most " + std::to_string(most) + " in magnitude");
  product({s.groups * padded_channels(s.out_c / s.groups), 5 * 4 * code_group_units(&x), s.kernel_h, s.kernel_w},
          "the packed weights");
  try {
    new (self) BitConvOp(s, x, low, step, w, padding, finish, kernel);
  } catch (const std::invalid_argument& e) {
    refuse(e.what());
  }
}

void make_encode_image(EncodeImageOp* self, const OwnedEncode& encode, bool uint8) {
  const CodeLayout& l = encode.layout;
  if (l.planes || l.groups != 1 || l.channels > ENCODE_IMAGE_CHANNELS)
    refuse("encode has " + std::to_string(l.planes) + " planes, " + std::to_string(l.groups) + " groups and " +
           std::to_string(l.channels) + " channels, expected bytes of at most " +
           std::to_string(ENCODE_IMAGE_CHANNELS) + " channels in one group");
  new (self) EncodeImageOp(encode, uint8);
}

void make_pool(PoolCodesOp* self, const Conv2dShape& s, const CodeLayout& x, const CodeLayout& out,
               const std::vector<bool>& least) {
  if (!least.empty() && static_cast<int64_t>(least.size()) != x.channels)
    refuse("least has " + std::to_string(least.size()) + " entries, expected one per channel");
  if (x.height != s.in_h || x.width != s.in_w || x.channels != s.in_c)
    refuse("the layout of x is not that of the window's image and channels");
  // One more than the window counts: its last position in ceil mode.
  if (out.height < 1 || out.height > s.out_h + 1 || out.width < 1 || out.width > s.out_w + 1)
    refuse("the layout of the result is not that of the window's output");
  if (out.channels != x.channels || out.groups != x.groups || out.planes != x.planes)
    refuse("the layout of the result has other channels, groups or planes than that of x");
  new (self) PoolCodesOp(s, x, out, least);
}

auto peak_variant() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512vpopcntdq) return popcount_peak_avx512vpopcntdq;
  if (isa >= Isa::avx512) return popcount_peak_avx512;
  if (isa == Isa::avx2) return popcount_peak_avx2;
#endif
  return popcount_peak_ref;
}

double popcount_peak() { return best_speed(peak_variant(), 200'000); }

}  // namespace

void bind_bits(nb::module_& m) {
  nb::class_<EncodeOp, Operation>(m, "EncodeOp")
      .def(
          "__init__", [](EncodeOp* self, const OwnedEncode& encode) { new (self) EncodeOp(encode); },
          nb::arg("encode"));
  nb::class_<EncodeImageOp, Operation>(m, "EncodeImageOp")
      .def("__init__", &make_encode_image, nb::arg("encode"), nb::arg("uint8") = false);
  nb::class_<PoolCodesOp, Operation>(m, "PoolCodesOp")
      .def("__init__", &make_pool, nb::arg("window"), nb::arg("x"), nb::arg("out"),
           nb::arg("least") = std::vector<bool>());
  nb::class_<BitConvOp, Operation>(m, "BitConvOp")
      .def("__init__", &make_conv, nb::arg("window"), nb::arg("x"), nb::arg("low"), nb::arg("step"), nb::arg("weights"),
           nb::arg("padding") = 0, nb::kw_only(), nb::arg("finish"), nb::arg("kernel") = "");
  m.def("popcount_peak", &popcount_peak, nb::call_guard<Unlocked>());
}
