// What the kernels of pattern.h share: tiles of one register of output channels. Include vec_<isa>.h first.
#pragma once
#include <string.h>

#include "conv2d_tiles.h"
#include "pattern.h"

// A tile of one register of channels; `values` and `first_lane`: of its block, of its place there.
template <class Weights>
struct PatternTile {
  Tile tile;
  const Weights* weights;
  int64_t block, first_lane, kernel_h, channels;
};

// Kernel::run<RY, RX>(tile) computes one.
template <class Kernel, int RY, int RX>
static void pattern_tile_if(const typename Kernel::Of* t) {
  if constexpr (RY * RX <= Kernel::MOST) Kernel::template run<RY, RX>(t);
}

template <class Kernel, int RY>
static void pattern_tile_of_width(int64_t rx, const typename Kernel::Of* t) {
  switch (rx) {
    case 1: return pattern_tile_if<Kernel, RY, 1>(t);
    case 2: return pattern_tile_if<Kernel, RY, 2>(t);
    case 3: return pattern_tile_if<Kernel, RY, 3>(t);
    case 4: return pattern_tile_if<Kernel, RY, 4>(t);
    case 5: return pattern_tile_if<Kernel, RY, 5>(t);
    case 6: return pattern_tile_if<Kernel, RY, 6>(t);
    case 7: return pattern_tile_if<Kernel, RY, 7>(t);
    case 8: return pattern_tile_if<Kernel, RY, 8>(t);
    case 9: return pattern_tile_if<Kernel, RY, 9>(t);
    case 10: return pattern_tile_if<Kernel, RY, 10>(t);
    case 11: return pattern_tile_if<Kernel, RY, 11>(t);
    case 12: return pattern_tile_if<Kernel, RY, 12>(t);
    case 13: return pattern_tile_if<Kernel, RY, 13>(t);
    case 14: return pattern_tile_if<Kernel, RY, 14>(t);
  }
}

// The odd multiples of a step that pixel_value takes; they stay in registers.
static INLINE void odd_multiples(int64_t step, int64_t* odd) {
#pragma GCC unroll 8
  for (int i = 0; i < ODD_MULTIPLES; ++i) odd[i] = (2 * i + 1) * step * (int64_t)sizeof(float);
}

template <class Kernel, class Weights>
static void pattern_layer(PATTERN_ARGUMENTS(Weights)) {
  const Conv2dShape* s = shape;
  const int64_t out_c = s->out_c / s->groups, blocks = pattern_blocks(out_c);
  prepare_rows(s, x + task->image * s->in_h * s->in_w * s->in_c, task, scratch);
  PatternTile<Weights> t;
  memset(&t, 0, sizeof t);
  t.weights = weights;
  t.kernel_h = s->kernel_h;
  t.channels = s->in_c / s->groups;
  t.tile.row_stride = s->stride_h;
  t.tile.row_dilation = s->dilation_h;
  t.tile.pixel_step = s->stride_w * s->in_c;
  t.tile.segments = s->kernel_w;
  t.tile.segment_step = s->dilation_w * s->in_c;
  t.tile.out_row_step = s->out_w * s->out_c;
  t.tile.out_pixel_step = s->out_c;
  for (t.block = task->block0; t.block < task->block1; ++t.block) {
    const int64_t group = t.block / blocks, left = out_c - t.block % blocks * HALF_BLOCK;
    const int64_t channel = group * out_c + t.block % blocks * HALF_BLOCK, first = Kernel::ABSOLUTE ? 0 : group * t.channels;
    for (t.first_lane = 0; t.first_lane < HALF_BLOCK && t.first_lane < left; t.first_lane += LANES)
      conv_channels(s, epilogue, task, (const float* const*)scratch, &t.tile, Kernel::MOST, channel + t.first_lane,
                    left - t.first_lane, first, out, [&](int64_t ry, int64_t rx) {
                      if (ry == 2) return pattern_tile_of_width<Kernel, 2>(rx, &t);
                      pattern_tile_of_width<Kernel, 1>(rx, &t);
                    });
  }
}
