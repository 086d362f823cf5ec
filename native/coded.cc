// How products with coded weights choose their layout when they are made, and divide their work when they run.
#include "coded.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ceil_div.h"
#include "cpu.h"
#include "parallel.h"

namespace {

// Below this many multiplications a call takes less time than waking a thread.
constexpr int64_t kWorthThread = 400'000;
// Samples that share an expanded weight: their inputs and their sums stay in the second-level cache.
constexpr int64_t kExpandSamples = 256;
constexpr int64_t kRegisters = 8;  // of rows that a kernel works on at once


auto variant(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return coded_linear_avx512;
  if (isa == Isa::avx2) return coded_linear_avx2;
#endif
  (void)isa;
  return coded_linear_ref;
}

// The digits that a variant knows, those that hold the most columns first, and from which batch on it is faster to
// expand them: measured on 1024 x 2048. Four signs a digit are always fastest as they are.
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
struct Digit {
  int64_t bits, group, most_values, expand_from;
};
constexpr Digit kDigits512[] = {{4, 4, 2, kNever}, {5, 3, 3, 12}, {4, 2, 4, 12}, {5, 2, 5, 12}, {4, 1, 16, 3},
                                {5, 1, 32, 3}};
constexpr Digit kDigits2[] = {{3, 3, 2, 48}, {3, 1, 8, 3}, {4, 1, 16, 2}};
constexpr Digit kByte = {8, 1, 256, 5};
constexpr int64_t kExpandLine = 16, kExpandTwice = 6;  // bytes on a line; two sums per output
constexpr int64_t kExpandRuns = 12;

Digit digit_for(int64_t values, Isa isa) {
  const auto first_in = [&](const auto& digits) {
    for (const Digit& d : digits)
      if (values <= d.most_values) return d;
    return kByte;
  };
  if (isa == Isa::ref) return {8, 1, 256, kNever};
  return isa == Isa::avx2 ? first_in(kDigits2) : first_in(kDigits512);
}

// basis[j][d]: what column j of digit d has in the table.
Aligned<float> make_basis(const std::vector<float>& table, int64_t bits, int64_t group) {
  const int64_t size = int64_t{1} << bits, base = static_cast<int64_t>(table.size());
  Aligned<float> basis(group * size);
  for (int64_t j = 0, place = 1; j < group; ++j, place *= base)
    for (int64_t d = 0; d < size; ++d)
      basis.data()[j * size + d] = table[d / place % base];  // of digits that mean something; others do not occur
  return basis;
}

// Whether the table is base + step * (code - 128), exactly.
bool is_line(const std::vector<float>& table, float* base, float* step) {
  *step = table[1] - table[0];
  *base = table[0] + 128 * *step;
  for (size_t c = 0; c < table.size(); ++c)
    if (table[c] != *base + *step * (static_cast<float>(c) - 128)) return false;
  return true;
}

const float* or_null(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

CodedLinear::CodedLinear(const CodedWeight& w, const Finish& finish)
    : Operation(finish.input_bytes(w.cols * static_cast<int64_t>(sizeof(float)), 1), finish.output_bytes(1)),
      finish_(finish),
      scale_(w.scale),
      negative_(w.negative) {
  const Isa isa = std::min(current_isa(), Isa::avx512);
  const Digit digit = digit_for(static_cast<int64_t>(w.table.size()), isa);
  CodedMatrix& m = matrix_;
  m.rows = w.rows;
  m.cols = w.cols;
  m.bits = digit.bits;
  m.group = digit.group;
  lay_out(isa);
  std::vector<float> positive = w.table, negative = w.table;
  if (!w.negative.empty())
    for (size_t c = 0; c < w.table.size(); ++c) (w.table[c] < 0 ? positive : negative)[c] = 0;
  basis_ = make_basis(positive, m.bits, m.group);
  if (!w.negative.empty()) negative_basis_ = make_basis(negative, m.bits, m.group);
  m.line = m.bits == 8 && isa != Isa::ref && w.negative.empty() && is_line(w.table, &m.base, &m.step);
  expand_from_ = m.line ? kExpandLine : digit.expand_from;
  if (!w.negative.empty() && isa != Isa::ref) expand_from_ = std::min(expand_from_, kExpandTwice);
  m.bits == 8 ? pack_bytes(w) : pack_digits(w);
  m.packed = packed_.data();
  m.bytes = bytes_.data();
  m.basis = basis_.data();
  m.negative_basis = negative_basis_.data();
  m.scale = or_null(scale_);
  m.negative = or_null(negative_);
  kernel_name_ = std::string("coded ") + isa_name(isa);
}

CodedLinear::CodedLinear(const ProductWeight& w, const Finish& finish)
    : Operation(finish.input_bytes(w.cols * static_cast<int64_t>(sizeof(float)), 1), finish.output_bytes(1)),
      finish_(finish) {
  const Isa isa = std::min(current_isa(), Isa::avx512);
  CodedMatrix& m = matrix_;
  m.rows = w.rows;
  m.cols = w.cols;
  m.bits = 4;
  m.group = w.width;
  m.book = w.width << m.bits;
  lay_out(isa);
  pack_runs(w);
  m.packed = packed_.data();
  m.basis = basis_.data();
  expand_from_ = isa == Isa::ref ? kNever : kExpandRuns;
  kernel_name_ = std::string("product ") + isa_name(isa);
}

void CodedLinear::lay_out(Isa isa) {
  CodedMatrix& m = matrix_;
  m.lanes = isa == Isa::ref ? 1 : isa == Isa::avx2 ? 8 : 16;
  m.words = ceil_div(m.cols, m.group * coded_digits(&m));
  registers_ = ceil_div(m.rows, m.lanes);
  kernel_ = variant(isa);
}

void CodedLinear::pack_runs(const ProductWeight& w) {
  const CodedMatrix& m = matrix_;
  const int64_t digits = coded_digits(&m), runs = ceil_div(w.cols, w.width), size = int64_t{1} << m.bits;
  basis_ = Aligned<float>(m.words * digits * m.book);
  for (int64_t r = 0; r < runs; ++r)
    for (int64_t code = 0; code < w.count; ++code)
      for (int64_t j = 0; j < w.width; ++j)
        basis_.data()[r * m.book + j * size + code] = w.books[(r * w.count + code) * w.width + j];
  packed_ = Aligned<uint32_t>(registers_ * m.words * m.lanes);
  for (int64_t o = 0; o < w.rows; ++o) {
    uint32_t* to = packed_.data() + o / m.lanes * m.words * m.lanes + o % m.lanes;
    for (int64_t r = 0; r < runs; ++r)
      to[r / digits * m.lanes] |= static_cast<uint32_t>(w.codes[o * runs + r]) << (r % digits * m.bits);
  }
}

void CodedLinear::pack_digits(const CodedWeight& w) {
  CodedMatrix& m = matrix_;
  const int64_t digits = coded_digits(&m), base = static_cast<int64_t>(w.table.size());
  packed_ = Aligned<uint32_t>(registers_ * m.words * m.lanes);
  for (int64_t o = 0; o < w.rows; ++o) {
    uint32_t* to = packed_.data() + o / m.lanes * m.words * m.lanes + o % m.lanes;
    for (int64_t c = 0; c < w.cols;) {
      const int64_t digit = c / m.group;
      uint32_t value = 0;
      for (int64_t place = 1, j = 0; j < m.group && c < w.cols; ++j, ++c, place *= base)
        value += static_cast<uint32_t>(place) * w.codes[o * w.cols + c];
      to[digit / digits * m.lanes] |= value << (digit % digits * m.bits);
    }
  }
}

void CodedLinear::pack_bytes(const CodedWeight& w) {
  CodedMatrix& m = matrix_;
  bytes_ = Aligned<uint8_t>(registers_ * w.cols * m.lanes);
  for (int64_t o = 0; o < w.rows; ++o) {
    uint8_t* to = bytes_.data() + o / m.lanes * w.cols * m.lanes + o % m.lanes;
    for (int64_t c = 0; c < w.cols; ++c) to[c * m.lanes] = w.codes[o * w.cols + c] ^ (m.line ? 128 : 0);
  }
}

int64_t CodedLinear::weight_bytes() const {
  const int64_t vectors = static_cast<int64_t>((scale_.size() + negative_.size()) * sizeof(float));
  return packed_.bytes() + bytes_.bytes() + basis_.bytes() + negative_basis_.bytes() + vectors;
}

void CodedLinear::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  if (batch == 0) return;
  const auto* x = static_cast<const float*>(inputs[0]);
  auto* out = static_cast<float*>(outputs[0]);
  const Epilogue epilogue = finish_.rest(finish_.residual ? static_cast<const float*>(inputs[1]) : nullptr);
  const CodedMatrix& m = matrix_;
  const int64_t multiplications = batch * m.rows * m.cols;
  threads = static_cast<int>(std::clamp<int64_t>(multiplications / kWorthThread, 1, threads));
  const int64_t parts = threads > 1 ? std::min<int64_t>(4 * threads, ceil_div(registers_, kRegisters)) : 1;
  const bool expand = batch >= expand_from_;
  const int64_t most = expand ? kExpandSamples : batch, chunks = ceil_div(batch, most);
  const size_t scratch = expand ? coded_expand_scratch(ceil_div(batch, chunks)) : coded_scratch(&m);
  parallel_for(chunks * parts, threads, [&](int64_t index) {
    const int64_t part = index % parts, chunk = index / parts, units = ceil_div(registers_, kRegisters);
    const CodedTask task = {batch * chunk / chunks, batch * (chunk + 1) / chunks, units * part / parts * kRegisters,
                            std::min(units * (part + 1) / parts * kRegisters, registers_), expand};
    kernel_(&m, &epilogue, x, out, &task, thread_scratch(scratch));
  });
}
