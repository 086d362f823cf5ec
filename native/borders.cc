#include "borders.h"

#include <algorithm>

namespace {

// Taps outside the image for each output position along one axis, and the distinct ones among these.
struct Axis {
  std::vector<std::vector<bool>> classes;
  std::vector<int32_t> of_position;

  Axis(int64_t out, int64_t in, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
    for (int64_t position = 0; position < out; ++position) {
      std::vector<bool> outside(kernel);
      for (int64_t tap = 0; tap < kernel; ++tap) {
        const int64_t at = position * stride + tap * dilation - pad;
        outside[tap] = at < 0 || at >= in;
      }
      const auto found = std::find(classes.begin(), classes.end(), outside);
      of_position.push_back(static_cast<int32_t>(found - classes.begin()));
      if (found == classes.end()) classes.push_back(outside);
    }
  }
};

}  // namespace

Borders make_borders(const Conv2dShape& s, const int32_t* tap_sums, int32_t all_taps, int32_t margin, int32_t padding,
                     int64_t lanes) {
  const Axis y(s.out_h, s.in_h, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h);
  const Axis x(s.out_w, s.in_w, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w);
  Borders b;
  b.row_class = y.of_position;
  b.column_class = x.of_position;
  b.rows = static_cast<int64_t>(y.classes.size());
  b.columns = static_cast<int64_t>(x.classes.size());
  b.lanes = lanes;
  b.start = Aligned<int32_t>(b.rows * b.columns * lanes);
  int32_t* start = b.start.data();
  for (const auto& rows : y.classes)
    for (const auto& columns : x.classes) {
      for (int64_t o = 0; o < s.out_c; ++o) {
        const int32_t* taps = tap_sums + o * s.kernel_h * s.kernel_w;
        int64_t all = 0, outside = 0;
        for (int64_t ky = 0; ky < s.kernel_h; ++ky)
          for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
            const int32_t tap = taps[ky * s.kernel_w + kx];
            all += tap;
            if (rows[ky] || columns[kx]) outside += tap;
          }
        start[o] = static_cast<int32_t>(all_taps * all + (int64_t{padding} - margin) * outside);
      }
      start += lanes;
    }
  return b;
}
