// Bindings of float operations that join channels: norms, concatenation, maxout.
#include "bind_operations.h"
#include "channels.h"

namespace {

struct ResponseNormOp : ChannelNormOp { using ChannelNormOp::ChannelNormOp; };
struct GroupNormOp : ChannelNormOp { using ChannelNormOp::ChannelNormOp; };

void check_image(int64_t pixels, int64_t channels) {
  check_pair({pixels, channels}, 1, "(pixels, channels)");
  product(pixels, channels, "the image");
}

void make_response_norm(ResponseNormOp* self, int64_t pixels, int64_t channels, int64_t size, float alpha, float beta,
                        float bias) {
  check_image(pixels, channels);
  check_pair({size, size}, 1, "size");
  new (self) ResponseNormOp(ChannelNorm{NORM_RESPONSE, pixels, channels, size, alpha, beta, bias});
}

void make_group_norm(GroupNormOp* self, int64_t pixels, int64_t channels, int64_t groups, float epsilon) {
  check_image(pixels, channels);
  if (groups < 1 || channels % groups)
    refuse("groups is " + std::to_string(groups) + ", expected a divisor of the channels");
  new (self) GroupNormOp(ChannelNorm{NORM_GROUPS, pixels, channels, groups, 0, 0, epsilon});
}

void make_concat(ConcatOp* self, int64_t outer, const std::vector<int64_t>& sizes) {
  check_pair({outer, outer}, 1, "outer");
  if (sizes.empty()) refuse("sizes is empty, expected one per input");
  int64_t total = 0;
  for (int64_t size : sizes) {
    check_pair({size, size}, 1, "sizes");
    total += size;
  }
  product(outer, total, "the result");
  new (self) ConcatOp(outer, sizes);
}

void make_maxout(MaxoutOp* self, int64_t count, int64_t pieces) {
  check_pair({count, pieces}, 1, "(count, pieces)");
  product(count, pieces, "x");
  new (self) MaxoutOp(count, pieces);
}

}  // namespace

void bind_channels(nb::module_& m) {
  nb::class_<ResponseNormOp, Operation>(m, "ResponseNormOp")
      .def("__init__", &make_response_norm, nb::arg("pixels"), nb::arg("channels"), nb::arg("size"), nb::arg("alpha"),
           nb::arg("beta"), nb::arg("bias"));
  nb::class_<GroupNormOp, Operation>(m, "GroupNormOp")
      .def("__init__", &make_group_norm, nb::arg("pixels"), nb::arg("channels"), nb::arg("groups"),
           nb::arg("epsilon"));
  nb::class_<ConcatOp, Operation>(m, "ConcatOp")
      .def("__init__", &make_concat, nb::arg("outer"), nb::arg("sizes"));
  nb::class_<MaxoutOp, Operation>(m, "MaxoutOp")
      .def("__init__", &make_maxout, nb::arg("count"), nb::arg("pieces"));
}
