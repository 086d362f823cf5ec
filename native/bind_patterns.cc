// Bindings of operations on float weights whose zeros follow a pattern.
#include "bind_operations.h"
#include "patterns.h"

namespace {

// The weight [O][C / groups][kernel_h][kernel_w] of the window, where all of it can be addressed.
const float* pattern_weight(const Conv2dShape& s, const Array& weight, const Finish& finish) {
  check_finish(finish, s);
  check_float_finish(finish);
  const auto* w = data<float>(weight, 4, "weight");
  const int64_t expected[] = {s.out_c, s.in_c / s.groups, s.kernel_h, s.kernel_w};
  for (int i = 0; i < 4; ++i)
    if (static_cast<int64_t>(weight.shape(i)) != expected[i])
      refuse("weight has shape " + shape_text(weight) + ", expected [O, C / groups, kernel_h, kernel_w] of the window");
  const int64_t lanes = s.groups * padded_channels(s.out_c / s.groups);
  const int64_t windows = s.in_c / s.groups / PATTERN_WINDOW + 1;
  product({lanes, windows, PATTERN_WINDOW, s.kernel_h, s.kernel_w}, "the packed weight");
  return w;
}

void make_pattern(PatternConv* self, const Conv2dShape& window, const Array& weight, const Finish& finish) {
  const float* w = pattern_weight(window, weight, finish);
  const int64_t slots = pattern_slots(window, w), most = PATTERN_SLOTS;
  if (slots > most)
    refuse("weight has " + std::to_string(slots) + " weights in a window of 16 inputs, expected at most " +
           std::to_string(most));
  new (self) PatternConv(window, w, finish);
}

void make_blocked(BlockedConv* self, const Conv2dShape& window, const Array& weight, const Finish& finish) {
  const float* w = pattern_weight(window, weight, finish);
  if (product({window.kernel_w, window.dilation_w, window.in_c}, "the filter") > UINT32_MAX ||
      static_cast<int64_t>(weight.size()) > UINT32_MAX)
    refuse("weight has shape " + shape_text(weight) + ", expected fewer than 4294967296 elements");
  new (self) BlockedConv(window, w, finish);
}

}  // namespace

void bind_patterns(nb::module_& m) {
  nb::class_<PatternConv, Operation>(m, "PatternConvOp")
      .def("__init__", &make_pattern, nb::arg("window"), nb::arg("weight"), nb::arg("finish"));
  nb::class_<BlockedConv, Operation>(m, "BlockedConvOp")
      .def("__init__", &make_blocked, nb::arg("window"), nb::arg("weight"), nb::arg("finish"));
}
