#include "weights.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/parts.h"

namespace {

// at(o, k): the weight of channel o at position k of the packed order.
template <class At>
void pack_blocks(float* packed, int64_t out_c, int64_t taps, At at) {
  for (int64_t block = 0; block < block_count(out_c); ++block) {
    const int64_t width = block_width(out_c, block);
    for (int64_t k = 0; k < taps; ++k)
      for (int64_t lane = 0; lane < width && block * BLOCK + lane < out_c; ++lane)
        packed[k * width + lane] = at(block * BLOCK + lane, k);
    packed += taps * width;
  }
}

}  // namespace

Conv2dWeights::Conv2dWeights(const float* weight, int64_t out_c, int64_t group_c, int64_t kernel_h, int64_t kernel_w,
                             int64_t groups)
    : out_c(out_c), group_c(group_c), kernel_h(kernel_h), kernel_w(kernel_w), groups(groups),
      depthwise(groups > 1 && group_c == 1 && out_c == groups) {
  const int64_t area = kernel_h * kernel_w, taps = area * group_c;
  if (depthwise) {
    const int64_t padded = padded_channels(out_c);
    packed = Aligned<float>(area * padded);
    for (int64_t c = 0; c < out_c; ++c)
      for (int64_t k = 0; k < area; ++k) packed.data()[k * padded + c] = weight[c * area + k];
    return;
  }
  const int64_t group_out = out_c / groups;
  packed = Aligned<float>(groups * padded_channels(group_out) * taps);
  for (int64_t g = 0; g < groups; ++g)
    pack_blocks(packed.data() + g * padded_channels(group_out) * taps, group_out, taps, [&](int64_t o, int64_t k) {
      // packed order [ky][kx][c], given order [c][ky][kx]
      const int64_t position = k / group_c, c = k % group_c;
      return weight[((g * group_out + o) * group_c + c) * area + position];
    });
}

namespace {

// The nearest bfloat16 of what is left of a number, which is taken from it.
uint16_t take_part(float& rest) {
  uint32_t bits;
  std::memcpy(&bits, &rest, sizeof bits);
  bits = (bits + 0x8000) & 0xffff0000;
  float part;
  std::memcpy(&part, &bits, sizeof part);
  rest -= part;
  return static_cast<uint16_t>(bits >> 16);
}

bool has_parts(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7fffffff) <= PARTS_LIMIT;
}

}  // namespace

Conv2dWeights::Conv2dWeights(const float* weight, const Conv2dShape& s, bool tiles)
    : out_c(s.out_c), group_c(s.in_c / s.groups), kernel_h(s.kernel_h), kernel_w(s.kernel_w), groups(s.groups),
      depthwise(false) {
  if (tiles && parts_serve(&s) && std::all_of(weight, weight + out_c * group_c * kernel_h * kernel_w, has_parts))
    pack_parts(weight, s);
  else
    *this = Conv2dWeights(weight, out_c, group_c, kernel_h, kernel_w, groups);
}

void Conv2dWeights::pack_parts(const float* weight, const Conv2dShape& s) {
  in_parts = true;
  packed = Aligned<float>(parts_count(&s) / 2);
  auto* parts = reinterpret_cast<uint16_t*>(packed.data());
  for (int64_t o = 0; o < out_c; ++o)
    for (int64_t ky = 0; ky < kernel_h; ++ky)
      for (int64_t k = 0; k < kernel_w * group_c; ++k) {
        float rest = weight[((o * group_c + k % group_c) * kernel_h + ky) * kernel_w + k / group_c];
        for (int part = 0; part < PARTS; ++part)
          parts[part_position(&s, o / BLOCK, ky, k, o % BLOCK, part)] = take_part(rest);
      }
}

LinearWeights::LinearWeights(const float* weight, int64_t out_c, int64_t in_c)
    : out_c(out_c), in_c(in_c), packed(padded_channels(out_c) * in_c) {
  pack_blocks(packed.data(), out_c, in_c, [&](int64_t o, int64_t k) { return weight[o * in_c + k]; });
}

SparseLinearWeights::SparseLinearWeights(int64_t rows, int64_t cols, int64_t entries, const int64_t* positions,
                                         const uint8_t* codes8_in, const uint16_t* codes16_in, const float* table_in,
                                         int64_t table_size, bool by_blocks)
    : rows(rows), cols(cols), entries(entries) {
  const int64_t blocks = (cols + SPARSE_COLUMNS - 1) / SPARSE_COLUMNS;
  const int64_t row_step = by_blocks ? 1 : blocks, block_step = by_blocks ? rows : 1;
  const auto run = [&](int64_t e) {
    return positions[e] / cols * row_step + positions[e] % cols / SPARSE_COLUMNS * block_step;
  };
  starts = Aligned<uint32_t>(rows * blocks + 1);
  for (int64_t e = 0; e < entries; ++e) ++starts.data()[run(e) + 1];
  for (int64_t i = 0; i < rows * blocks; ++i) starts.data()[i + 1] += starts.data()[i];
  std::vector<uint32_t> next(starts.data(), starts.data() + rows * blocks);
  const auto room = [&](auto& array, bool used) {
    if (used) array = std::remove_reference_t<decltype(array)>(entries + SPARSE_SLACK);
  };
  const bool coded = codes8_in || codes16_in;
  room(columns16, cols <= 65536);
  room(columns32, cols > 65536);
  room(codes8, codes8_in);
  room(codes16, codes16_in);
  table = Aligned<float>(table_size + SPARSE_SLACK);
  if (coded) std::copy_n(table_in, table_size, table.data());
  for (int64_t e = 0; e < entries; ++e) {
    const int64_t to = next[run(e)]++, column = positions[e] % cols;
    if (cols <= 65536)
      columns16.data()[to] = static_cast<uint16_t>(column);
    else
      columns32.data()[to] = static_cast<uint32_t>(column);
    if (codes8_in) codes8.data()[to] = codes8_in[e];
    if (codes16_in) codes16.data()[to] = codes16_in[e];
    if (!coded) table.data()[to] = table_in[e];
  }
  matrix = {rows, cols, blocks, row_step, block_step, starts.data(), columns16.data(), columns32.data(), codes8.data(),
            codes16.data(), table.data(), table_size, nullptr};
}

int64_t SparseLinearWeights::bytes() const {
  return starts.bytes() + columns16.bytes() + columns32.bytes() + codes8.bytes() + codes16.bytes() + table.bytes();
}
