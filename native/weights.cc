#include "weights.h"

#include <cstring>

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

LinearWeights::LinearWeights(const float* weight, int64_t out_c, int64_t in_c)
    : out_c(out_c), in_c(in_c), packed(padded_channels(out_c) * in_c) {
  pack_blocks(packed.data(), out_c, in_c, [&](int64_t o, int64_t k) { return weight[o * in_c + k]; });
}

namespace {

template <class T, class U>
void copy_into(Aligned<T>& to, const U* from, int64_t count, int64_t slack) {
  to = Aligned<T>(count + slack);
  std::memcpy(to.data(), from, count * sizeof(T));
}

template <class T>
void columns_into(Aligned<T>& to, const int64_t* positions, int64_t count, int64_t cols) {
  to = Aligned<T>(count + SPARSE_SLACK);
  for (int64_t e = 0; e < count; ++e) to.data()[e] = static_cast<T>(positions[e] % cols);
}

}  // namespace

SparseLinearWeights::SparseLinearWeights(int64_t rows, int64_t cols, int64_t entries, const int64_t* positions,
                                         const uint8_t* codes8_in, const uint16_t* codes16_in, const float* table_in,
                                         int64_t table_size)
    : rows(rows), cols(cols), entries(entries) {
  const int64_t blocks = (cols + SPARSE_COLUMNS - 1) / SPARSE_COLUMNS;
  starts = Aligned<uint32_t>((blocks + 1) * rows);
  for (int64_t row = 0, e = 0; row < rows; ++row) {
    for (int64_t block = 0; block <= blocks; ++block) {
      const int64_t column = block * SPARSE_COLUMNS < cols ? block * SPARSE_COLUMNS : cols;
      while (e < entries && positions[e] < row * cols + column) ++e;
      starts.data()[block * rows + row] = static_cast<uint32_t>(e);
    }
  }
  if (cols <= 65536)
    columns_into(columns16, positions, entries, cols);
  else
    columns_into(columns32, positions, entries, cols);
  if (codes8_in) copy_into(codes8, codes8_in, entries, SPARSE_SLACK);
  if (codes16_in) copy_into(codes16, codes16_in, entries, SPARSE_SLACK);
  copy_into(table, table_in, table_size, SPARSE_SLACK);
  matrix = {rows, cols, blocks, starts.data(), columns16.data(), columns32.data(), codes8.data(), codes16.data(),
            table.data(), table_size, nullptr};
}

int64_t SparseLinearWeights::bytes() const {
  return starts.bytes() + columns16.bytes() + columns32.bytes() + codes8.bytes() + codes16.bytes() + table.bytes();
}
