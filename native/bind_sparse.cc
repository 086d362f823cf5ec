// Bindings of sparse and coded-weight operations.
#include "bind_operations.h"
#include "coded.h"
#include "sparse.h"

#include <cmath>

namespace {

using Optional = std::optional<Array>;

template <class Code>
void check_codes(const Code* codes, int64_t count, int64_t table_size) {
  for (int64_t e = 0; e < count; ++e)
    if (codes[e] >= table_size)
      refuse("codes[" + std::to_string(e) + "] is " + std::to_string(codes[e]) + ", expected less than the " +
             std::to_string(table_size) + " values");
}

int64_t length(const Array& a, const char* name) {
  if (a.ndim() != 1) refuse(std::string(name) + " has shape " + shape_text(a) + ", expected 1 dimension");
  return static_cast<int64_t>(a.shape(0));
}

// Non-zeros of a weight of `size` elements.
SparseEntries check_entries(int64_t size, const Array& positions, const Optional& codes, const Array& values) {
  SparseEntries e = {length(positions, "positions"),
                     data<int64_t>(positions, 1, "positions"),
                     nullptr,
                     nullptr,
                     data<float>(values, 1, "values"),
                     length(values, "values")};
  for (int64_t i = 0, next = 0; i < e.count; ++i) {
    if (e.positions[i] < next || e.positions[i] >= size)
      refuse("positions[" + std::to_string(i) + "] is " + std::to_string(e.positions[i]) +
             ", expected ascending values below " + std::to_string(size));
    next = e.positions[i] + 1;
  }
  const int64_t found = codes ? length(*codes, "codes") : e.table_size;
  if (found != e.count)
    refuse((codes ? "codes has " : "values has ") + std::to_string(found) +
           " entries, expected as many as positions: " + std::to_string(e.count));
  if (e.count > INT32_MAX) refuse("positions has " + std::to_string(e.count) + " entries, expected at most 2147483647");
  if (codes && codes->dtype() == nb::dtype<uint16_t>())
    check_codes(e.codes16 = data<uint16_t>(*codes, 1, "codes"), e.count, e.table_size);
  else if (codes)
    check_codes(e.codes8 = data<uint8_t>(*codes, 1, "codes"), e.count, e.table_size);
  return e;
}

// These operations end in floats.
void check_float_finish(const Finish& finish, int64_t channels) {
  if (finish.channels != channels)
    refuse("finish is for " + std::to_string(finish.channels) + " channels, expected " + std::to_string(channels));
  if (finish.encode) refuse("finish has an encode, expected none: an operation of its own encodes floats");
  if (!finish.multiplier.empty() || !finish.negative.empty())
    refuse("finish has multipliers, expected none: they belong to exact sums");
  check_simple(finish);
}

void make_sparse_linear(SparseLinear* self, int64_t rows, int64_t cols, const Array& positions, const Optional& codes,
                        const Array& values, const Finish& finish) {
  check_pair({rows, cols}, 1, "(rows, cols)");
  product(rows, cols / SPARSE_COLUMNS + 2, "the index of the matrix");
  const SparseEntries entries = check_entries(product(rows, cols, "the matrix"), positions, codes, values);
  check_float_finish(finish, rows);
  new (self) SparseLinear(rows, cols, entries, finish);
}

std::vector<double> part_seconds(const SparseLinear& self, const Array& x, int threads, int64_t repeats,
                                 bool equal_rows) {
  const auto* values = data<float>(x, 2, "x");
  const auto batch = static_cast<int64_t>(x.shape(0)), row = self.input_bytes()[0] / int64_t{sizeof(float)};
  if (batch < 1 || static_cast<int64_t>(x.shape(1)) != row)
    refuse("x has shape " + shape_text(x) + ", expected at least one row of " + std::to_string(row));
  check_threads(threads);
  check_pair({repeats, repeats}, 1, "repeats");
  std::vector<float> out(static_cast<size_t>(batch * self.output_bytes()[0]) / sizeof(float));
  nb::gil_scoped_release release;
  return self.part_seconds(values, out.data(), batch, threads, repeats, equal_rows);
}

void make_sparse_conv(SparseConv* self, const Conv2dShape& window, const Array& positions, const Optional& codes,
                      const Array& values, const Finish& finish) {
  const int64_t filter = product({window.in_c / window.groups, window.kernel_h, window.kernel_w}, "the filter");
  if (filter > INT32_MAX) refuse("the filter has " + std::to_string(filter) + " taps, expected at most 2147483647");
  const SparseEntries entries = check_entries(product(window.out_c, filter, "the weight"), positions, codes, values);
  check_float_finish(finish, window.out_c);
  new (self) SparseConv(window, entries, finish);
}

void make_coded_linear(CodedLinear* self, const Array& codes, const Array& table, const Finish& finish,
                       const Optional& scale, const Optional& negative) {
  const uint8_t* numbers = data<uint8_t>(codes, 2, "codes");
  const auto rows = static_cast<int64_t>(codes.shape(0)), cols = static_cast<int64_t>(codes.shape(1));
  check_pair({rows, cols}, 1, "the shape of codes");
  const float* values = data<float>(table, 1, "table");
  const int64_t size = length(table, "table");
  if (size < 1 || size > 256) refuse("table has " + std::to_string(size) + " values, expected 1 to 256");
  for (int64_t c = 0; c < size; ++c)
    if (!std::isfinite(values[c])) refuse("table[" + std::to_string(c) + "] is not finite");
  check_codes(numbers, product(rows, cols, "the codes"), size);
  if (negative && !scale) refuse("negative without scale: expected both or scale alone");
  check_float_finish(finish, rows);
  new (self) CodedLinear({rows,
                          cols,
                          numbers,
                          {values, values + size},
                          channel_vector(scale, rows, "scale"),
                          channel_vector(negative, rows, "negative")},
                         finish);
}

// Its owner is Python, as that of what a static function returns.
CodedLinear* make_product_linear(const Array& codes, const Array& books, int64_t cols, const Finish& finish) {
  const uint8_t* numbers = data<uint8_t>(codes, 2, "codes");
  const float* values = data<float>(books, 3, "books");
  const auto rows = static_cast<int64_t>(codes.shape(0)), runs = static_cast<int64_t>(codes.shape(1));
  const auto count = static_cast<int64_t>(books.shape(1)), width = static_cast<int64_t>(books.shape(2));
  check_pair({rows, runs}, 1, "the shape of codes");
  if (static_cast<int64_t>(books.shape(0)) != runs) refuse("books are not one for each column of codes");
  if (count < 1 || count > 16) refuse("books of " + std::to_string(count) + " values, expected 1 to 16");
  if (width != 1 && width != 2 && width != 4) refuse("runs of " + std::to_string(width) + ", expected 1, 2 or 4");
  if (cols > runs * width || cols <= (runs - 1) * width)
    refuse("cols is " + std::to_string(cols) + ", expected " + std::to_string((runs - 1) * width + 1) + " to " +
           std::to_string(runs * width));
  for (int64_t i = 0; i < product({runs, count, width}, "the books"); ++i)
    if (!std::isfinite(values[i])) refuse("books[" + std::to_string(i) + "] is not finite");
  check_codes(numbers, product(rows, runs, "the codes"), count);
  check_float_finish(finish, rows);
  return new CodedLinear(ProductWeight{rows, cols, width, count, numbers, values}, finish);
}

}  // namespace

void bind_sparse(nb::module_& m) {
  nb::class_<SparseLinear, Operation>(m, "SparseLinearOp")
      .def("__init__", &make_sparse_linear, nb::arg("rows"), nb::arg("cols"), nb::arg("positions"),
           nb::arg("codes").none(), nb::arg("values"), nb::arg("finish"))
      .def("part_seconds", &part_seconds, nb::arg("x"), nb::arg("threads"), nb::arg("repeats") = 1,
           nb::arg("equal_rows") = false);
  nb::class_<SparseConv, Operation>(m, "SparseConvOp")
      .def("__init__", &make_sparse_conv, nb::arg("window"), nb::arg("positions"), nb::arg("codes").none(),
           nb::arg("values"), nb::arg("finish"));
  nb::class_<CodedLinear, Operation>(m, "CodedLinearOp")
      .def("__init__", &make_coded_linear, nb::arg("codes"), nb::arg("table"), nb::arg("finish"), nb::kw_only(),
           nb::arg("scale") = nb::none(), nb::arg("negative") = nb::none())
      .def_static("of_runs", &make_product_linear, nb::arg("codes"), nb::arg("books"), nb::arg("cols"), nb::arg("finish"));
}
