// Layers whose output channels share in sixteens where their weights are: each tap of the list is one register of
// weights and, for every pixel, one broadcast input. Include vec_<isa>.h first.
#pragma once
#include "pattern_simd.h"

namespace {  // its functions are of this instruction set only

struct Blocked {
  typedef PatternTile<BlockedWeights> Of;
  enum { MOST = TILE_SUMS, ABSOLUTE = 1 };  // offsets count from the first channel of all groups

  template <int RY, int RX>
  static void run(const Of* p) {
    const Tile* t = &p->tile;
    vec sums[RY * RX][1];
#pragma GCC unroll 32
    for (int m = 0; m < RY * RX; ++m) sums[m][0] = zero();
    int64_t odd[ODD_MULTIPLES];
    odd_multiples(t->pixel_step, odd);
    const uint32_t* starts = p->weights->starts + p->block * p->kernel_h;
    for (int64_t ky = t->ky0; ky < t->ky1; ++ky) {
      const float* rows[RY];
#pragma GCC unroll 2
      for (int ry = 0; ry < RY; ++ry) rows[ry] = t->rows[ry * t->row_stride + ky * t->row_dilation] + t->offset;
      const uint32_t* offset = p->weights->offsets + starts[ky];
      const float* w = p->weights->values + (int64_t)starts[ky] * HALF_BLOCK + p->first_lane;
      for (const uint32_t* end = p->weights->offsets + starts[ky + 1]; offset < end; ++offset, w += HALF_BLOCK) {
#pragma GCC unroll 7
        for (int i = 0; i < RX / 2; ++i) __asm__("" : "+r"(odd[i]));  // as in tile
        const vec weight = load(w);
        prefetch(w + AHEAD * HALF_BLOCK);
        const float* x[RY];
#pragma GCC unroll 2
        for (int ry = 0; ry < RY; ++ry) x[ry] = rows[ry] + *offset;
#pragma GCC unroll 32
        for (int m = 0; m < RY * RX; ++m)
          sums[m][0] = fma(broadcast(*pixel_value(x[m / RX], odd, m % RX)), weight, sums[m][0]);
      }
    }
    finish_tile<1, RY * RX>(
        t, sums, [t](int m) { return (m / RX) * t->out_row_step + (m % RX) * t->out_pixel_step; });
  }
};

}  // namespace

static void blocked_conv(PATTERN_ARGUMENTS(BlockedWeights)) {
  pattern_layer<Blocked>(shape, weights, epilogue, x, out, task, scratch);
}
