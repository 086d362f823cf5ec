// Matrix product. Include vec_<isa>.h first.
//
// Several samples are a 1x1 convolution over a row of pixels. One sample is bound by reading the weights: one stream,
// four rows of it per turn, so that enough sums are under way to hide the latency of the additions.
#pragma once
#include <string.h>

#include "tile.h"

template <int NV>
static inline void one_sample(int64_t in_c, Tile* t) {
  const float *x = *t->rows + t->offset, *w = t->weights;
  const int64_t width = t->width;
  vec sums[4][NV];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sums[k][v] = zero();
  int64_t c = 0;
  for (; c + 4 <= in_c; c += 4) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const vec value = broadcast(x[c + k]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sums[k][v] = fma(value, load(w + v * LANES), sums[k][v]);
      w += width;
    }
  }
  for (; c < in_c; ++c, w += width) {
    const vec value = broadcast(x[c]);
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sums[0][v] = fma(value, load(w + v * LANES), sums[0][v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v) sums[0][v] = add(add(sums[0][v], sums[1][v]), add(sums[2][v], sums[3][v]));
  finish_tile<NV, 1>(t, sums, [](int) { return (int64_t)0; });
}

static void linear(LINEAR_ARGUMENTS) {
  Tile t;
  memset(&t, 0, sizeof t);
  t.rows = &x;
  t.ky1 = t.segments = 1;
  t.run = t.pixel_step = in_c;
  t.out_pixel_step = out_c;
  const int64_t samples = task->n1 - task->n0;
  for (int64_t block = task->block0; block < task->block1; ++block) {
    t.width = block_width(out_c, block);
    const int64_t registers = pass_registers(t.width), widest = MAX_RX_ONE;
    const int64_t tiles = (samples + widest - 1) / widest;
    for (int64_t lane = 0; lane < t.width && block * BLOCK + lane < out_c; lane += registers * LANES) {
      const int64_t channel = block * BLOCK + lane;
      t.weights = weights + block * BLOCK * in_c + lane;
      t.lanes = out_c - channel;
      t.epilogue.bias = advance(epilogue->bias, channel);
      t.epilogue.scale = advance(epilogue->scale, channel);
      t.epilogue.shift = advance(epilogue->shift, channel);
      t.epilogue.relu = epilogue->relu;
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t n0 = task->n0 + samples * i / tiles, n1 = task->n0 + samples * (i + 1) / tiles;
        t.offset = n0 * in_c;
        t.out = out + n0 * out_c + channel;
        t.epilogue.residual = advance(epilogue->residual, n0 * out_c + channel);
        if (samples > 1)
          run_tile(registers, 1, n1 - n0, &t);
        else if (registers == 2)
          one_sample<2>(in_c, &t);
        else
          one_sample<1>(in_c, &t);
      }
    }
  }
}
