// Bindings of the compute kernels: checks of arguments, shapes of results. Nothing deeper checks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arguments.h"
#include "cpu.h"
#include "dispatch.h"

namespace {

using Result = nb::ndarray<nb::numpy, float>;
using Optional = std::optional<Array>;

int64_t axis(const Array& a, size_t i) { return static_cast<int64_t>(a.shape(i)); }

std::string text(Pair p) { return std::to_string(p.first) + " x " + std::to_string(p.second); }

Epilogue make_epilogue(int64_t channels, const std::vector<int64_t>& shape, const Optional& bias, const Optional& scale,
                       const Optional& shift, const Optional& residual, bool relu) {
  if (scale.has_value() != shift.has_value()) refuse("scale and shift: found one of them, expected both or neither");
  Epilogue e = {channel_data(bias, channels, "bias"), channel_data(scale, channels, "scale"),
                channel_data(shift, channels, "shift"), nullptr, relu};
  if (residual) {
    e.residual = data<float>(*residual, static_cast<int>(shape.size()), "residual");
    for (size_t i = 0; i < shape.size(); ++i)
      if (axis(*residual, i) != shape[i]) refuse("residual has shape " + shape_text(*residual) + ", expected the output's");
  }
  return e;
}

Conv2dWeights pack_conv2d(const Array& weight, int64_t groups) {
  const float* w = data<float>(weight, 4, "weight");
  for (size_t i = 0; i < 4; ++i)
    if (weight.shape(i) == 0) refuse("weight has shape " + shape_text(weight) + ", expected no empty axis");
  if (groups < 1 || axis(weight, 0) % groups)
    refuse("groups is " + std::to_string(groups) + ", expected a divisor of the " + std::to_string(axis(weight, 0)) +
           " output channels");
  product({padded_channels(axis(weight, 0) / groups) * groups, axis(weight, 1), axis(weight, 2), axis(weight, 3)},
          "the packed weight");
  product(axis(weight, 1), groups, "the input channels");
  return Conv2dWeights(w, axis(weight, 0), axis(weight, 1), axis(weight, 2), axis(weight, 3), groups);
}

// Positions of a window of `kernel` taps along one axis; negative if there is none.
int64_t window_count(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  return room < 0 ? -1 : room / stride + 1;
}

Result conv2d(const Array& x, const Conv2dWeights& w, const Optional& bias, Pair stride, Pair padding, Pair dilation,
              int threads, const Optional& scale, const Optional& shift, const Optional& residual, bool relu) {
  const float* in = data<float>(x, 4, "x");
  check_pair(stride, 1, "stride");
  check_pair(padding, 0, "padding");
  check_pair(dilation, 1, "dilation");
  check_threads(threads);
  const Pair image = {axis(x, 1), axis(x, 2)};
  if (axis(x, 3) != w.group_c * w.groups)
    refuse("x has shape " + shape_text(x) + ", expected " + std::to_string(w.group_c * w.groups) +
           " channels in the last axis");
  const int64_t out_h = window_count(image.first, w.kernel_h, stride.first, padding.first, dilation.first);
  const int64_t out_w = window_count(image.second, w.kernel_w, stride.second, padding.second, dilation.second);
  if (out_h < 1 || out_w < 1)
    refuse("x is an image of " + text(image) + ", expected at least the window of " +
           text({dilation.first * (w.kernel_h - 1) + 1, dilation.second * (w.kernel_w - 1) + 1}) + " less twice the padding");
  // The padded image is an upper bound for the scratch memory of a task.
  product({image.first + 2 * padding.first + 1, image.second + 2 * padding.second, axis(x, 3)}, "the padded image");
  const Conv2dShape shape = {axis(x, 0),   image.first,   image.second,  axis(x, 3),     out_h,           out_w,
                             w.out_c,      w.kernel_h,    w.kernel_w,    stride.first,   stride.second,   padding.first,
                             padding.second, dilation.first, dilation.second, w.groups};
  const std::vector<int64_t> out_shape = {shape.batch, out_h, out_w, w.out_c};
  const Epilogue epilogue = make_epilogue(w.out_c, out_shape, bias, scale, shift, residual, relu);
  float* out;
  Result result = new_array(out_shape, &out);
  const auto kernel = conv2d_kernel(w.depthwise);  // a wrong BITWRIGHT_CPU is reported here
  nb::gil_scoped_release released;
  run_conv2d(kernel, shape, w, epilogue, in, out, threads);
  return result;
}

LinearWeights pack_linear(const Array& weight) {
  const float* w = data<float>(weight, 2, "weight");
  product(padded_channels(axis(weight, 0)), axis(weight, 1), "the packed weight");
  return LinearWeights(w, axis(weight, 0), axis(weight, 1));
}

const float* rows_of(const Array& x, int64_t columns) {
  const float* in = data<float>(x, 2, "x");
  if (axis(x, 1) != columns)
    refuse("x has shape " + shape_text(x) + ", expected " + std::to_string(columns) + " columns");
  return in;
}

Result linear(const Array& x, const LinearWeights& w, const Optional& bias, int threads, const Optional& scale,
              const Optional& shift, bool relu) {
  const float* in = rows_of(x, w.in_c);
  check_threads(threads);
  const std::vector<int64_t> shape = {axis(x, 0), w.out_c};
  const Epilogue epilogue = make_epilogue(w.out_c, shape, bias, scale, shift, std::nullopt, relu);
  float* out;
  Result result = new_array(shape, &out);
  const auto kernel = linear_kernel();
  nb::gil_scoped_release released;
  run_linear(kernel, shape[0], w, epilogue, in, out, threads);
  return result;
}

template <class Code>
void check_codes(const Code* codes, int64_t count, int64_t table_size) {
  for (int64_t e = 0; e < count; ++e)
    if (codes[e] >= table_size)
      refuse("codes[" + std::to_string(e) + "] is " + std::to_string(codes[e]) + ", expected less than the " +
             std::to_string(table_size) + " values");
}

SparseLinearWeights pack_sparse_linear(int64_t rows, int64_t cols, const Array& positions, const Optional& codes,
                                       const Array& values) {
  check_pair({rows, cols}, 0, "(rows, cols)");
  const int64_t size = product(rows, cols, "the matrix");
  const int64_t* at = data<int64_t>(positions, 1, "positions");
  const float* table = data<float>(values, 1, "values");
  const int64_t count = axis(positions, 0), table_size = axis(values, 0);
  for (int64_t e = 0, next = 0; e < count; ++e) {
    if (at[e] < next || at[e] >= size)
      refuse("positions[" + std::to_string(e) + "] is " + std::to_string(at[e]) + ", expected ascending values below " +
             std::to_string(size));
    next = at[e] + 1;
  }
  const int64_t values_expected = codes ? axis(*codes, 0) : table_size;
  if (codes && codes->ndim() != 1) refuse("codes has shape " + shape_text(*codes) + ", expected 1 dimension");
  if (values_expected != count)
    refuse((codes ? "codes has " : "values has ") + std::to_string(values_expected) + " entries, expected as many as positions: " +
           std::to_string(count));
  if (count > UINT32_MAX) refuse("positions has " + std::to_string(count) + " entries, expected at most 4294967295");
  product(rows, cols / SPARSE_COLUMNS + 2, "the index of the matrix");
  const uint8_t* codes8 = nullptr;
  const uint16_t* codes16 = nullptr;
  if (codes && codes->dtype() == nb::dtype<uint16_t>())
    check_codes(codes16 = data<uint16_t>(*codes, 1, "codes"), count, table_size);
  else if (codes)
    check_codes(codes8 = data<uint8_t>(*codes, 1, "codes"), count, table_size);
  return SparseLinearWeights(rows, cols, count, at, codes8, codes16, table, table_size);
}

Result sparse_linear(const Array& x, const SparseLinearWeights& w, const Optional& bias, int threads, const Optional& scale,
                     const Optional& shift, bool relu) {
  const float* in = rows_of(x, w.cols);
  check_threads(threads);
  const std::vector<int64_t> shape = {axis(x, 0), w.rows};
  const Epilogue epilogue = make_epilogue(w.rows, shape, bias, scale, shift, std::nullopt, relu);
  float* out;
  Result result = new_array(shape, &out);
  current_isa();
  nb::gil_scoped_release released;
  run_sparse_linear(shape[0], w, epilogue, in, out, threads);
  return result;
}

// As PyTorch: the last window may hang over the right padding in ceil mode, but must begin inside the image or the left
// padding.
int64_t pool_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation, bool ceil) {
  const int64_t room = size + 2 * pad - dilation * (kernel - 1) - 1;
  if (room < 0 && !(ceil && room + stride - 1 >= 0)) return -1;
  const int64_t count = (room + (ceil ? stride - 1 : 0)) / stride + 1;
  return ceil && (count - 1) * stride >= size + pad ? count - 1 : count;
}

Result pool(int kind, const Array& x, Pair kernel, Pair stride, Pair padding, Pair dilation, bool ceil,
            bool count_include_pad, int threads) {
  const float* in = data<float>(x, 4, "x");
  check_pair(kernel, 1, "kernel");
  check_pair(stride, 1, "stride");
  check_pair(padding, 0, "padding");
  check_pair(dilation, 1, "dilation");
  check_threads(threads);
  const Pair reach = {dilation.first * (kernel.first - 1) + 1, dilation.second * (kernel.second - 1) + 1};
  if (padding.first > reach.first / 2 || padding.second > reach.second / 2)
    refuse("padding is " + text(padding) + ", expected at most half of the window of " + text(reach));
  const int64_t out_h = pool_size(axis(x, 1), kernel.first, stride.first, padding.first, dilation.first, ceil);
  const int64_t out_w = pool_size(axis(x, 2), kernel.second, stride.second, padding.second, dilation.second, ceil);
  if (out_h < 1 || out_w < 1)
    refuse("x is an image of " + text({axis(x, 1), axis(x, 2)}) + ", expected at least the window of " + text(reach) +
           " less twice the padding");
  const PoolShape shape = {kind, axis(x, 1),   axis(x, 2),   axis(x, 3),    out_h,         out_w,          kernel.first,    kernel.second,
                           stride.first, stride.second, padding.first, padding.second, dilation.first, dilation.second,
                           count_include_pad};
  float* out;
  Result result = new_array({axis(x, 0), out_h, out_w, axis(x, 3)}, &out);
  nb::gil_scoped_release released;
  run_pool2d(pool2d_kernel(), axis(x, 0), shape, in, out, threads);
  return result;
}

Result max_pool2d(const Array& x, Pair kernel, Pair stride, Pair padding, Pair dilation, bool ceil, int threads) {
  return pool(POOL_MAX, x, kernel, stride, padding, dilation, ceil, false, threads);
}

Result avg_pool2d(const Array& x, Pair kernel, Pair stride, Pair padding, bool ceil, bool count_include_pad, int threads) {
  return pool(POOL_MEAN, x, kernel, stride, padding, {1, 1}, ceil, count_include_pad, threads);
}

Result adaptive_avg_pool2d(const Array& x, Pair size, int threads) {
  const float* in = data<float>(x, 4, "x");
  check_pair(size, 1, "size");
  check_threads(threads);
  if (x.shape(1) == 0 || x.shape(2) == 0) refuse("x has shape " + shape_text(x) + ", expected a non-empty image");
  PoolShape shape = {};
  shape.kind = POOL_ADAPTIVE_MEAN;
  shape.in_h = axis(x, 1), shape.in_w = axis(x, 2), shape.channels = axis(x, 3);
  shape.out_h = size.first, shape.out_w = size.second;
  shape.kernel_h = (shape.in_h + size.first - 1) / size.first, shape.kernel_w = (shape.in_w + size.second - 1) / size.second;
  float* out;
  Result result = new_array({axis(x, 0), size.first, size.second, axis(x, 3)}, &out);
  nb::gil_scoped_release released;
  run_pool2d(pool2d_kernel(), axis(x, 0), shape, in, out, threads);
  return result;
}

std::vector<int64_t> shape_of(const Array& x) {
  std::vector<int64_t> shape(x.ndim());
  for (size_t i = 0; i < x.ndim(); ++i) shape[i] = axis(x, i);
  return shape;
}

Result affine(const Array& x, const Array& scale, const Array& shift, int threads) {
  const float* in = data<float>(x, -1, "x");
  if (x.ndim() == 0) refuse("x has shape (), expected channels in the last axis");
  check_threads(threads);
  const std::vector<int64_t> shape = shape_of(x);
  const float* factors = channel_data(scale, shape.back(), "scale");
  const float* offsets = channel_data(shift, shape.back(), "shift");
  float* out;
  Result result = new_array(shape, &out);
  const int64_t rows = product({shape.begin(), shape.end() - 1}, "x");
  nb::gil_scoped_release released;
  run_elementwise(elementwise_kernel(), {ELEMENTWISE_AFFINE, rows, shape.back(), in, nullptr, factors, offsets, out}, threads);
  return result;
}

Result relu(const Array& x, int threads) {
  const float* in = data<float>(x, -1, "x");
  check_threads(threads);
  float* out;
  Result result = new_array(shape_of(x), &out);
  nb::gil_scoped_release released;
  const auto count = static_cast<int64_t>(x.size());
  run_elementwise(elementwise_kernel(), {ELEMENTWISE_RELU, count, 1, in, nullptr, nullptr, nullptr, out}, threads);
  return result;
}

Result add(const Array& a, const Array& b, int threads) {
  const float *left = data<float>(a, -1, "a"), *right = data<float>(b, -1, "b");
  check_threads(threads);
  if (shape_of(a) != shape_of(b)) refuse("b has shape " + shape_text(b) + ", expected that of a, " + shape_text(a));
  float* out;
  Result result = new_array(shape_of(a), &out);
  nb::gil_scoped_release released;
  const auto count = static_cast<int64_t>(a.size());
  run_elementwise(elementwise_kernel(), {ELEMENTWISE_ADD, count, 1, left, right, nullptr, nullptr, out}, threads);
  return result;
}

nb::dict feature_dict() {
  nb::dict found;
  for (const auto& [name, has] : cpu_features()) found[name.c_str()] = has;
  return found;
}

void bind_matrix_kernels(nb::module_& m) {
  const auto none = nb::none();
  nb::class_<Conv2dWeights>(m, "Conv2dWeights").def_prop_ro("nbytes", [](const Conv2dWeights& w) { return w.packed.bytes(); });
  nb::class_<LinearWeights>(m, "LinearWeights").def_prop_ro("nbytes", [](const LinearWeights& w) { return w.packed.bytes(); });
  nb::class_<SparseLinearWeights>(m, "SparseLinearWeights").def_prop_ro("nbytes", &SparseLinearWeights::bytes);
  m.def("conv2d_pack", &pack_conv2d, nb::arg("weight"), nb::arg("groups") = 1);
  m.def("conv2d", &conv2d, nb::arg("x"), nb::arg("weights"), nb::arg("bias") = none, nb::arg("stride") = Pair(1, 1),
        nb::arg("padding") = Pair(0, 0), nb::arg("dilation") = Pair(1, 1), nb::arg("threads") = 1, nb::kw_only(),
        nb::arg("scale") = none, nb::arg("shift") = none, nb::arg("residual") = none, nb::arg("relu") = false);
  m.def("linear_pack", &pack_linear, nb::arg("weight"));
  m.def("linear", &linear, nb::arg("x"), nb::arg("weights"), nb::arg("bias") = none, nb::arg("threads") = 1, nb::kw_only(),
        nb::arg("scale") = none, nb::arg("shift") = none, nb::arg("relu") = false);
  m.def("sparse_linear_pack", &pack_sparse_linear, nb::arg("rows"), nb::arg("cols"), nb::arg("positions"),
        nb::arg("codes").none(), nb::arg("values"));
  m.def("sparse_linear", &sparse_linear, nb::arg("x"), nb::arg("weights"), nb::arg("bias") = none, nb::arg("threads") = 1,
        nb::kw_only(), nb::arg("scale") = none, nb::arg("shift") = none, nb::arg("relu") = false);
}

}  // namespace

void bind_kernels(nb::module_& m) {
  // Packed weights held by a global or a traceback when Python ends are no fault worth a page of warnings.
  nb::set_leak_warnings(false);
  m.def("cpu_features", &feature_dict);
  m.def("isa", [] { return std::string(isa_name(current_isa())); });
  m.def("isa_names", &isa_names);
  m.def("set_isa", [](const std::optional<std::string>& name) { set_isa(name.value_or("")); }, nb::arg("name").none());
  bind_matrix_kernels(m);
  m.def("max_pool2d", &max_pool2d, nb::arg("x"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding") = Pair(0, 0),
        nb::arg("dilation") = Pair(1, 1), nb::arg("ceil") = false, nb::arg("threads") = 1);
  m.def("avg_pool2d", &avg_pool2d, nb::arg("x"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding") = Pair(0, 0),
        nb::arg("ceil") = false, nb::arg("count_include_pad") = true, nb::arg("threads") = 1);
  m.def("adaptive_avg_pool2d", &adaptive_avg_pool2d, nb::arg("x"), nb::arg("size"), nb::arg("threads") = 1);
  m.def("affine", &affine, nb::arg("x"), nb::arg("scale"), nb::arg("shift"), nb::arg("threads") = 1);
  m.def("relu", &relu, nb::arg("x"), nb::arg("threads") = 1);
  m.def("add", &add, nb::arg("a"), nb::arg("b"), nb::arg("threads") = 1);
}
