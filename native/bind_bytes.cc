// Bindings of operations on byte codes: int8 convolutions.
#include <nanobind/stl/shared_ptr.h>

#include "bind_operations.h"
#include "by_batch.h"
#include "byte_conv.h"
#include "cpu.h"

namespace {

void check_range(int64_t value, int64_t least, int64_t most, const char* name) {
  if (value < least || value > most)
    refuse(std::string(name) + " is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " +
           std::to_string(most));
}

void make_byte_conv(ByteConvOp* self, const Conv2dShape& window, const CodeLayout& x, int64_t low, const Array& weights,
                    int64_t padding, const Finish& finish, int64_t step, int64_t largest) {
  check_input_layout(x, window);
  check_finish(finish, window);
  if (x.planes) refuse("the layout of x has bit planes, expected bytes (planes 0)");
  check_range(low, -65536, 65536, "low");
  check_range(padding, -65536, 65536, "padding");
  check_range(step, 1, 2, "step");
  check_range(largest, 1, 255, "largest");
  const int8_t* values = conv_weights(weights, window);
  if (!finish.negative.empty())
    for (size_t i = 0; i < weights.size(); ++i)
      if (values[i] < -1 || values[i] > 1) refuse("weights of two magnitudes have other values than -1, 0 and 1");
  new (self) ByteConvOp(window, x, static_cast<int32_t>(low), static_cast<int32_t>(step), static_cast<int32_t>(padding),
                        static_cast<int32_t>(largest), values, finish);
}

void make_by_batch(ByBatchOp* self, std::shared_ptr<Operation> few, std::shared_ptr<Operation> many,
                   const CodeLayout& planes, const CodeLayout& bytes, int64_t most) {
  for (const CodeLayout* l : {&planes, &bytes})
    if (l->height * l->width * l->groups != 1) refuse("a layout has several pixels or groups, expected one");
  if (!planes.planes || bytes.planes || planes.channels != bytes.channels)
    refuse("the layouts are not of bit planes and of bytes for the same channels");
  check_range(most, 1, INT32_MAX, "most");
  new (self) ByBatchOp(std::move(few), std::move(many), planes, bytes, most);
}

auto peak_variant() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::amx) return byte_peak_amx;
  if (isa >= Isa::avx512vnni) return byte_peak_avx512vnni;
  if (isa >= Isa::avx512) return byte_peak_avx512;
  if (isa >= Isa::avx2) return byte_peak_avx2;
#endif
  return byte_peak_ref;
}

double byte_peak() { return best_speed(peak_variant(), 50'000); }

}  // namespace

void bind_bytes(nb::module_& m) {
  nb::class_<ByteConvOp, RowOperation>(m, "ByteConvOp")
      .def("__init__", &make_byte_conv, nb::arg("window"), nb::arg("x"), nb::arg("low"), nb::arg("weights"),
           nb::arg("padding") = 0, nb::kw_only(), nb::arg("finish"), nb::arg("step") = 1,
           nb::arg("largest") = 255);
  nb::class_<ByBatchOp, Operation>(m, "ByBatchOp")
      .def("__init__", &make_by_batch, nb::arg("few"), nb::arg("many"), nb::arg("planes"), nb::arg("bytes"),
           nb::arg("most"));
  m.def("byte_peak", &byte_peak);
}
