// Matrix product. Include vec_<isa>.h first.
//
// Several samples are a 1x1 convolution over a row of pixels. One sample is bound by reading the weights: whole blocks,
// asked for early, and with AVX-512 four at once, because one stream does not keep the memory busy.
#pragma once
#include <string.h>

#include "tile.h"

// Registers per block; blocks that one sample passes at once; how many taps ahead it asks for its weights.
static const int BLOCK_REGISTERS = BLOCK / LANES, STREAMS = LANES == HALF_BLOCK ? 4 : 1, SAMPLE_AHEAD = 32;

// R registers of outputs from the sample at x: blocks, or half of one. Even and odd taps are added up apart, to hide
// the latency of additions.
template <int R>
static inline void one_sample(const Tile* t, int64_t in_c, const float* x) {
  const int width = R < BLOCK_REGISTERS ? HALF_BLOCK : BLOCK;
  const int64_t block_step = BLOCK * in_c;
  const float* w = t->weights;
  vec sums[1][R], odd[R];
#pragma GCC unroll 8
  for (int v = 0; v < R; ++v) sums[0][v] = odd[v] = zero();
  int64_t c = 0;
  for (; c + 2 <= in_c; c += 2, w += 2 * width) {
    const vec even_value = broadcast(x[c]), odd_value = broadcast(x[c + 1]);
#pragma GCC unroll 8
    for (int v = 0; v < R; ++v) {
      const float* taps = w + v / BLOCK_REGISTERS * block_step + v % BLOCK_REGISTERS * LANES;
      prefetch(taps + SAMPLE_AHEAD * width);
      prefetch(taps + (SAMPLE_AHEAD + 1) * width);
      sums[0][v] = fma(even_value, load(taps), sums[0][v]);
      odd[v] = fma(odd_value, load(taps + width), odd[v]);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < R; ++v) {
    const float* taps = w + v / BLOCK_REGISTERS * block_step + v % BLOCK_REGISTERS * LANES;
    if (c < in_c) sums[0][v] = fma(broadcast(x[c]), load(taps), sums[0][v]);
    sums[0][v] = add(sums[0][v], odd[v]);
  }
  finish_tile<R, 1>(t, sums, [](int) { return (int64_t)0; });
}

static void linear_one(LINEAR_ARGUMENTS) {
  Tile t;
  memset(&t, 0, sizeof t);
  const float* sample = x + task->n0 * in_c;
  for (int64_t block = task->block0; block < task->block1;) {
    t.weights = weights + block * BLOCK * in_c;
    set_output(epilogue, out_c, task->n0, block * BLOCK, out, &t);
    const int64_t last = block + STREAMS - 1;
    if (last < task->block1 && block_width(out_c, last) == BLOCK) {
      one_sample<STREAMS * BLOCK_REGISTERS>(&t, in_c, sample);
      block += STREAMS;
      continue;
    }
    if (block_width(out_c, block) == BLOCK)
      one_sample<BLOCK_REGISTERS>(&t, in_c, sample);
    else
      one_sample<BLOCK_REGISTERS / 2>(&t, in_c, sample);
    ++block;
  }
}

static void linear_many(LINEAR_ARGUMENTS) {
  Tile t;
  memset(&t, 0, sizeof t);
  t.rows = &x;
  t.ky1 = t.segments = 1;
  t.run = t.pixel_step = in_c;
  t.out_pixel_step = out_c;
  const int64_t samples = task->n1 - task->n0, tiles = (samples + MAX_RX_ONE - 1) / MAX_RX_ONE;
  for (int64_t block = task->block0; block < task->block1; ++block) {
    t.width = block_width(out_c, block);
    const int64_t registers = pass_registers(t.width);
    for (int64_t lane = 0; lane < t.width && block * BLOCK + lane < out_c; lane += registers * LANES) {
      t.weights = weights + block * BLOCK * in_c + lane;
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t n0 = task->n0 + samples * i / tiles, n1 = task->n0 + samples * (i + 1) / tiles;
        t.offset = n0 * in_c;
        set_output(epilogue, out_c, n0, block * BLOCK + lane, out, &t);
        run_tile(registers, 1, n1 - n0, &t);
      }
    }
  }
}

static void linear(LINEAR_ARGUMENTS) {
  if (task->n1 - task->n0 == 1) return linear_one(in_c, out_c, weights, epilogue, x, out, task);
  linear_many(in_c, out_c, weights, epilogue, x, out, task);
}
