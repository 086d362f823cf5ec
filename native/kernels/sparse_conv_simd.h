// Sparse convolution. Include vec_<isa>.h first, and define transpose_square(vec[LANES]), SETS and shifted<K>(vec):
// lane l of the result is lane l + K, zero if there is none.
#pragma once
#include <string.h>

#include "epilogue_simd.h"
#include "sparse_conv.h"

// sums[R][LANES] += the entries of one block, one output channel.
template <int S, int R, bool UNIT>
static inline void add_entries(const SparseConvWeights* w, const uint32_t* starts, const float* copy, float* sums) {
  const int64_t step = UNIT ? 16 : w->shape.stride_h * w->phases * w->line;
  vec acc[S][R];
#pragma GCC unroll 3
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) acc[s][r] = zero();
    for (uint32_t e = starts[s]; e < starts[s + 1]; ++e) {
      const vec value = broadcast(w->values[e]);
      const float* x = copy + w->offsets[e];
#pragma GCC unroll 14
      for (int r = 0; r < R; ++r) acc[s][r] = fma(value, load(x + r * step), acc[s][r]);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
    vec sum = load(sums + r * LANES);
    if (S == 1) {
      sum = add(sum, acc[0][r]);
    } else if (w->origin) {
      sum = add(add(sum, shifted<-1>(acc[0][r])), acc[1][r]);
      if (S > 2) sum = add(sum, shifted<1>(acc[S > 2 ? 2 : 0][r]));
    } else {
      sum = add(add(sum, acc[0][r]), shifted<1>(acc[1 % S][r]));
      if (S > 2) sum = add(sum, shifted<2>(acc[S > 2 ? 2 : 0][r]));
    }
    store(sums + r * LANES, sum);
  }
}

template <int S, int R, bool UNIT>
static void add_channels(const SparseConvWeights* w, int64_t block, int64_t o0, int64_t o1, const float* copy,
                         float* sums) {
  const uint32_t* starts = w->starts + block * w->shape.out_c * S;
  for (int64_t o = o0; o < o1; ++o, sums += R * LANES) add_entries<S, R, UNIT>(w, starts + o * S, copy, sums);
}

typedef void (*AddChannels)(const SparseConvWeights*, int64_t, int64_t, int64_t, const float*, float*);
template <int S>
static AddChannels tile_kernel(const SparseConvWeights* w) {
  const bool unit = w->shape.stride_h * w->phases * w->line == 16;
  if (w->rows == 7) return unit ? add_channels<S, 7, true> : add_channels<S, 7, false>;
  if (w->rows == 8 || S > 1) return unit ? add_channels<S, 8, true> : add_channels<S, 8, false>;
  return unit ? add_channels<1, 14, true> : add_channels<1, 14, false>;
}

// Channels [channel, channel + count) of what the tile reads, transposed.
static void copy_block(const SparseConvWeights* w, const SparseConvTask* t, const float* image, int64_t channel,
                       int64_t count, const float* zeros, float* copy) {
  const Conv2dShape* s = &w->shape;
  const int64_t step = sparse_conv_channel(w);
  for (int64_t row = 0; row < w->in_rows; ++row)
    for (int64_t phase = 0; phase < w->phases; ++phase)
      for (int64_t first = 0; first < w->line; first += LANES) {
        const int64_t y = t->row * s->stride_h - s->pad_h + row;
        const float* pixels[LANES];
        for (int64_t l = 0; l < LANES; ++l) {
          const int64_t x = (t->column + w->origin + first + l) * s->stride_w - s->pad_w + phase;
          const bool inside = y >= 0 && y < s->in_h && x >= 0 && x < s->in_w;
          pixels[l] = inside ? image + (y * s->in_w + x) * s->in_c + channel : zeros;
        }
        float* to = copy + (row * w->phases + phase) * w->line + first;
        for (int64_t c = 0; c < count; c += LANES) {
          vec square[LANES];
#pragma GCC unroll 16
          for (int64_t l = 0; l < LANES; ++l) square[l] = load_first(pixels[l] + c, count - c);
          transpose_square(square);
          const int64_t some = count - c < LANES ? count - c : LANES;
          for (int64_t l = 0; l < some; ++l) store(to + (c + l) * step, square[l]);
        }
      }
}

// The sums of the tile, transposed back.
static void finish_tile(const SparseConvWeights* w, const SparseConvTask* t, const Epilogue* e, const float* sums,
                        float* out) {
  const Conv2dShape* s = &w->shape;
  const int64_t rows = s->out_h - t->row < w->rows ? s->out_h - t->row : w->rows;
  const int64_t columns = s->out_w - t->column < w->tile_columns ? s->out_w - t->column : w->tile_columns;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t o = t->o0; o < t->o1; o += LANES) {
      const int64_t n = t->o1 - o < LANES ? t->o1 - o : LANES;
      vec square[LANES];
      for (int64_t l = 0; l < LANES; ++l)
        square[l] = l < n ? load(sums + ((o - t->o0 + l) * w->rows + row) * LANES) : zero();
      transpose_square(square);
      const int64_t first = ((t->image * s->out_h + t->row + row) * s->out_w + t->column) * s->out_c + o;
      for (int64_t l = 0; l < columns; ++l) {
        const int64_t position = first + l * s->out_c;
        store_first(out + position, finish(e, square[l], o, position, n), n);
      }
    }
}

static void sparse_conv(SPARSE_CONV_ARGUMENTS) {
  const SparseConvWeights* w = weights;
  const Conv2dShape* s = &w->shape;
  const int64_t group_in = s->in_c / s->groups, group_out = s->out_c / s->groups;
  float* copy = (float*)scratch;
  float* sums = copy + (w->block_channels * sparse_conv_channel(w) + 15) / 16 * 16;
  float* zeros = sums + (task->o1 - task->o0) * w->rows * LANES;
  memset(sums, 0, (task->o1 - task->o0) * w->rows * LANES * sizeof(float));
  memset(zeros, 0, (w->block_channels + LANES) * sizeof(float));
  const AddChannels add = w->sets == 1   ? tile_kernel<1>(w)
                          : w->sets == 2 ? tile_kernel < SETS < 2 ? SETS : 2 > (w)
                                         : tile_kernel<SETS>(w);
  const float* image = x + task->image * s->in_h * s->in_w * s->in_c;
  for (int64_t g = task->o0 / group_out; g * group_out < task->o1; ++g) {
    const int64_t o0 = task->o0 > g * group_out ? task->o0 : g * group_out;
    const int64_t o1 = task->o1 < (g + 1) * group_out ? task->o1 : (g + 1) * group_out;
    for (int64_t block = 0; block < w->blocks; ++block) {
      const int64_t c = block * w->block_channels, left = group_in - c;
      copy_block(w, task, image, g * group_in + c, left < w->block_channels ? left : w->block_channels, zeros, copy);
      add(w, block, o0, o1, copy, sums + (o0 - task->o0) * w->rows * LANES);
    }
  }
  finish_tile(w, task, epilogue, sums, out);
}
