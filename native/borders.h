// Where the windows of a convolution reach beyond the image, integer kernels read margins of code 0 like everything
// else. What that makes wrong, and what the offset of the codes adds, depends only on which taps are outside: a few
// classes of rows and of columns, each with one correction per output channel, from which the sums start.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "weights.h"

struct Borders {
  std::vector<int32_t> row_class;     // [out_h]
  std::vector<int32_t> column_class;  // [out_w]
  int64_t rows = 0, columns = 0;      // how many classes
  int64_t lanes = 0;
  Aligned<int32_t> start;             // [rows][columns][lanes]

  const int32_t* at(int64_t y, int64_t x) const {
    return start.data() + (row_class[y] * columns + column_class[x]) * lanes;
  }
};

// start[o] = all_taps * (sum of the weights of o) + (padding - margin) * (sum of the weights of o at taps outside the
// image). tap_sums: [out_c][kernel_h][kernel_w], weights summed over input channels. `margin`: the number that a code
// of 0 means to the kernel, `padding`: what is there instead. Lanes without a channel start from 0.
Borders make_borders(const Conv2dShape& shape, const int32_t* tap_sums, int32_t all_taps, int32_t margin,
                     int32_t padding, int64_t lanes);
