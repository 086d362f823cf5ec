#include "encoding.h"

#include <algorithm>
#include <cstring>

#include "cpu.h"
#include "kernels/code_rows.h"
#include "parallel.h"

namespace {

constexpr int64_t kElementsPerTask = 1 << 15;

auto encode_variant() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return encode_avx512;
  if (isa == Isa::avx2) return encode_avx2;
#endif
  return encode_ref;
}

auto encode_image_variant() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return encode_image_avx512;
  if (isa == Isa::avx2) return encode_image_avx2;
#endif
  return encode_image_ref;
}

const char* encode_level() { return isa_name(std::min(current_isa(), Isa::avx512)); }

// Calls body(image, y, codes of the row's first pixel) for every row of a batch, all beside the codes zeroed.
template <class Body>
void for_code_rows(const CodeLayout& l, void* out, int64_t batch, int threads, const Body& body) {
  const int64_t rows = std::max<int64_t>(kElementsPerTask / (l.width * l.channels), 1);
  const int64_t tasks = (batch * l.height + rows - 1) / rows;
  parallel_for(tasks, static_cast<int>(std::min<int64_t>(tasks, threads)), [&](int64_t task) {
    for (int64_t r = task * rows; r < std::min((task + 1) * rows, batch * l.height); ++r) {
      const int64_t image = r / l.height, y = r % l.height;
      uint8_t* codes = static_cast<uint8_t*>(out) + image * code_image_bytes(&l);
      clear_rows(&l, codes, y, y + 1, 0);
      body(image, y, codes + (l.planes ? 4 : 1) * code_pixel(&l, y, 0));
    }
  });
}

int64_t float_bytes(const CodeLayout& l) {
  return l.height * l.width * l.channels * static_cast<int64_t>(sizeof(float));
}

}  // namespace

EncodeOp::EncodeOp(const OwnedEncode& encode)
    : Operation({float_bytes(encode.layout)}, {code_image_bytes(&encode.layout)}),
      encode_(encode),
      row_(encode_variant()),
      level_(encode_level()) {}

std::string EncodeOp::kernel() const { return std::string("encode ") + level_; }

void EncodeOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const Encode e = encode_.view();
  const CodeLayout& l = e.layout;
  const auto* x = static_cast<const float*>(inputs[0]);
  for_code_rows(l, outputs[0], batch, threads, [&](int64_t image, int64_t y, uint8_t* codes) {
    row_(&e, x + (image * l.height + y) * l.width * l.channels, l.width, codes);
  });
}

void EncodeOp::run_rows(const float* x, int64_t row0, int64_t row1, void* codes) const {
  const Encode e = encode_.view();
  const CodeLayout& l = e.layout;
  auto* image = static_cast<uint8_t*>(codes);
  clear_rows(&l, image, row0, row1, 0);
  for (int64_t y = row0; y < row1; ++y, x += l.width * l.channels)
    row_(&e, x, l.width, image + (l.planes ? 4 : 1) * code_pixel(&l, y, 0));
}

EncodeImageOp::EncodeImageOp(const OwnedEncode& encode, bool uint8)
    : Operation({float_bytes(encode.layout) / (uint8 ? static_cast<int64_t>(sizeof(float)) : 1)},
                {code_image_bytes(&encode.layout)}),
      encode_(encode),
      uint8_(uint8),
      row_(encode_image_variant()),
      level_(encode_level()) {}

std::string EncodeImageOp::kernel() const { return std::string("encode image ") + level_; }

void EncodeImageOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const Encode e = encode_.view();
  const CodeLayout& l = e.layout;
  const int64_t element = input_bytes()[0] / (l.height * l.width * l.channels);
  for_code_rows(l, outputs[0], batch, threads, [&](int64_t image, int64_t y, uint8_t* codes) {
    const auto* x = static_cast<const uint8_t*>(inputs[0]) + image * input_bytes()[0] + y * l.width * element;
    row_(&e, x, uint8_, l.height * l.width, l.width, codes);
  });
}

namespace {

// Bytes of a pixel's codes in one plane.
int64_t pixel_bytes(const CodeLayout& l) { return (l.planes ? 4 : 1) * code_pixel_units(&l); }

}  // namespace

PoolCodesOp::PoolCodesOp(const Conv2dShape& shape, const CodeLayout& x, const CodeLayout& out,
                         const std::vector<bool>& least)
    : Operation({code_image_bytes(&x)}, {code_image_bytes(&out)}), shape_(shape), x_(x), out_(out) {
  if (std::find(least.begin(), least.end(), true) == least.end()) return;
  complement_.resize(pixel_bytes(x));
  for (int64_t c = 0; c < x.channels; ++c) {
    const int64_t of_group = x.channels / x.groups, unit = c / of_group * code_group_units(&x), i = c % of_group;
    if (!least[c]) continue;
    if (x.planes)
      complement_[4 * (unit + i / 32) + i % 32 / 8] |= static_cast<uint8_t>(1 << i % 8);
    else
      complement_[unit + i] = 0xff;
  }
}

// The codes of all pixels of the image, in every plane, with the bits of `complement_` turned over.
void PoolCodesOp::turn(const CodeLayout& l, const uint8_t* from, uint8_t* to) const {
  const int64_t pixel = pixel_bytes(l), plane = 4 * code_plane_units(&l), row = code_columns(&l) * pixel;
  const uint8_t* const complement = complement_.data();
  for (int64_t n = 0; n < std::max<int64_t>(l.planes, 1); ++n)
    for (int64_t y = 0; y < l.height; ++y) {
      const int64_t first = n * plane + (l.top + y) * row + l.left * pixel;
      for (int64_t at = first; at < first + l.width * pixel; at += pixel)
#pragma GCC ivdep
        for (int64_t i = 0; i < pixel; i += 4) {  // a word: pixels have whole ones
          uint32_t codes, turned;
          std::memcpy(&codes, from + at + i, 4);
          std::memcpy(&turned, complement + i, 4);
          codes ^= turned;
          std::memcpy(to + at + i, &codes, 4);
        }
    }
}

void PoolCodesOp::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  parallel_for(batch, threads, [&](int64_t image) {
    const auto* x = static_cast<const uint8_t*>(inputs[0]) + image * code_image_bytes(&x_);
    auto* const out = static_cast<uint8_t*>(outputs[0]) + image * code_image_bytes(&out_);
    if (!complement_.empty()) {
      auto* const turned = static_cast<uint8_t*>(thread_scratch(code_image_bytes(&x_)));
      turn(x_, x, turned);
      x = turned;
    }
    pool_codes_portable(&shape_, &x_, &out_, x, out);
    if (!complement_.empty()) turn(out_, out, out);
  });
}
