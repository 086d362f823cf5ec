// The inner loop of conv2d and linear: a tile of RY x RX output pixels and NV registers of output channels is kept in
// registers while the products of all taps are added. Include vec_<isa>.h first.
//
// Every sum is one chain of fused multiply-adds in an order that the shape of the layer decides, ky, kx, c or, in
// triple_tile, ky, c, kx: how work is divided into tiles and threads never changes a bit.
#pragma once

// Of what works on sums: a call would need them in memory, and large files make the compiler shy of inlining.
#define INLINE inline __attribute__((always_inline))

typedef struct {
  // Input. rows[ry * row_stride + ky * row_dilation] is the padded input row that row ry of the tile needs for ky, of
  // which [ky0, ky1) count: what others would add is zero. Of it, segment g of output pixel p takes the floats from
  // offset + p * pixel_step + g * segment_step.
  const float* const* rows;
  int64_t row_stride, row_dilation, ky0, ky1;
  int64_t offset, pixel_step;
  int64_t segments, segment_step, run;
  int triple;  // whether triple_tile takes the place of tile, if of one register
  // Weights of these channels: [kernel_h][segments][run] groups of NV registers, `width` floats apart.
  const float* weights;
  int64_t width;
  // Output of the tile's first pixel and channel. `lanes` channels are valid.
  float* out;
  int64_t out_row_step, out_pixel_step, lanes;
  int continued;  // whether tile adds to what `out` holds
  // As in Epilogue, advanced to this channel and, the residual, to this output.
  Epilogue epilogue;
} Tile;

static inline const float* advance(const float* p, int64_t n) { return p ? p + n : p; }

// Outputs of sample n of a matrix product from `channel` on.
static inline void set_output(const Epilogue* e, int64_t out_c, int64_t n, int64_t channel, float* out, Tile* t) {
  const int64_t position = n * out_c + channel;
  t->lanes = out_c - channel;
  t->out = out + position;
  t->epilogue.bias = advance(e->bias, channel);
  t->epilogue.scale = advance(e->scale, channel);
  t->epilogue.shift = advance(e->shift, channel);
  t->epilogue.residual = advance(e->residual, position);
  t->epilogue.relu = e->relu;
}

// `sums`: NV registers of channels for each of M pixels; `at(m)`: where pixel m lies, counted from the tile's first.
template <int NV, int M, bool FULL, class At>
static INLINE void finish_sums(const Tile* t, vec (*sums)[NV], const At at) {
  const Epilogue* e = &t->epilogue;
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) {
    const int64_t c = v * LANES, lanes = FULL ? LANES : t->lanes - c;
    if (e->bias) {
      const vec bias = load_first(e->bias + c, lanes);
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) sums[m][v] = add(sums[m][v], bias);
    }
    if (e->scale) {
      const vec scale = load_first(e->scale + c, lanes), shift = load_first(e->shift + c, lanes);
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) sums[m][v] = add(mul(sums[m][v], scale), shift);
    }
    if (e->residual)
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) sums[m][v] = add(sums[m][v], load_first(e->residual + at(m) + c, lanes));
    if (e->relu)
#pragma GCC unroll 32
      for (int m = 0; m < M; ++m) sums[m][v] = maximum(zero(), sums[m][v]);
#pragma GCC unroll 32
    for (int m = 0; m < M; ++m) store_first(t->out + at(m) + c, sums[m][v], lanes);
  }
}

template <int NV, int M, class At>
static INLINE void finish_tile(const Tile* t, vec (*sums)[NV], const At at) {
  if (t->lanes >= NV * LANES) return finish_sums<NV, M, true>(t, sums, at);
  finish_sums<NV, M, false>(t, sums, at);
}

// Pixel m of a row lies m = j * 2^k pixel steps on, j odd. The few odd multiples stay in registers and the power of two
// is part of the address, so that 16 pixels need 8 registers instead of 15; there are not more.
static const int ODD_MULTIPLES = 8;
static inline const float* pixel_value(const float* x, const int64_t* odd, int m) {
  if (m == 0) return x;
  const int k = __builtin_ctz(m);
  return (const float*)((const char*)x + (odd[(m >> k) / 2] << k));
}

// Weights are asked for this many taps early: large layers stream them from beyond the first-level cache.
static const int AHEAD = 8;

// N taps from the pixels at x[ry] and the weights at w.
template <int NV, int RY, int RX, int N>
static INLINE void add_taps(const Tile* t, const float* const* x, const float* w, const int64_t* odd, vec (*sums)[NV]) {
#pragma GCC unroll 2
  for (int k = 0; k < N; ++k) {
    vec weight[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      const float* at = w + k * t->width + v * LANES;
      weight[v] = load(at);
      prefetch(at + AHEAD * t->width);
    }
#pragma GCC unroll 32
    for (int m = 0; m < RY * RX; ++m) {
      const vec value = broadcast(pixel_value(x[m / RX], odd, m % RX)[k]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) sums[m][v] = fma(value, weight[v], sums[m][v]);
    }
  }
}

template <int NV, int RY, int RX>
static void tile(const Tile* t) {
  const auto at = [t](int m) { return (m / RX) * t->out_row_step + (m % RX) * t->out_pixel_step; };
  vec sums[RY * RX][NV];
#pragma GCC unroll 32
  for (int m = 0; m < RY * RX; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v)
      sums[m][v] = t->continued ? load_first(t->out + at(m) + v * LANES, t->lanes - v * LANES) : zero();

  const float* w = t->weights + t->ky0 * t->segments * t->run * t->width;
  int64_t odd[ODD_MULTIPLES];
#pragma GCC unroll 8
  for (int i = 0; i < ODD_MULTIPLES; ++i) odd[i] = (2 * i + 1) * t->pixel_step * (int64_t)sizeof(float);
  for (int64_t ky = t->ky0; ky < t->ky1; ++ky) {
    for (int64_t g = 0; g < t->segments; ++g) {
      const float* x[RY];
#pragma GCC unroll 2
      for (int ry = 0; ry < RY; ++ry)
        x[ry] = t->rows[ry * t->row_stride + ky * t->row_dilation] + t->offset + g * t->segment_step;
      int64_t c = 0;
      for (; c + 2 <= t->run; c += 2) {
        // Without this the compiler would compute all multiples before the loop, and run out of registers.
#pragma GCC unroll 7
        for (int i = 0; i < RX / 2; ++i) __asm__("" : "+r"(odd[i]));
        add_taps<NV, RY, RX, 2>(t, x, w, odd, sums);
#pragma GCC unroll 2
        for (int ry = 0; ry < RY; ++ry) x[ry] += 2;
        w += 2 * t->width;
      }
      if (c < t->run) {
        add_taps<NV, RY, RX, 1>(t, x, w, odd, sums);
        w += t->width;
      }
    }
  }
  finish_tile<NV, RY * RX>(t, sums, at);
}

// The same with one register of channels and three taps side by side, stride 1: loading a value for every product would
// take longer than the products, so each serves all three. Here the order is ky, c, kx.
enum { TRIPLE = 3 };
template <int RY, int RX>
static void triple_tile(const Tile* t) {
  vec sums[RY * RX][1];
#pragma GCC unroll 32
  for (int m = 0; m < RY * RX; ++m) sums[m][0] = zero();
  int64_t odd[ODD_MULTIPLES];
#pragma GCC unroll 8
  for (int i = 0; i < ODD_MULTIPLES; ++i) odd[i] = (2 * i + 1) * t->pixel_step * (int64_t)sizeof(float);
  const int64_t channels = t->segments * t->run / TRIPLE, next = channels * LANES;
  for (int64_t ky = t->ky0; ky < t->ky1; ++ky) {
    const float *x[RY], *w = t->weights + ky * TRIPLE * next;
#pragma GCC unroll 2
    for (int ry = 0; ry < RY; ++ry) x[ry] = t->rows[ry * t->row_stride + ky * t->row_dilation] + t->offset;
    for (int64_t c = 0; c < channels; ++c) {
#pragma GCC unroll 8
      for (int i = 0; i < (RX + TRIPLE - 1) / 2; ++i) __asm__("" : "+r"(odd[i]));
      vec weight[TRIPLE];
#pragma GCC unroll 3
      for (int kx = 0; kx < TRIPLE; ++kx) weight[kx] = load(w + c * LANES + kx * next);
#pragma GCC unroll 2
      for (int ry = 0; ry < RY; ++ry) {
#pragma GCC unroll 16
        for (int j = 0; j < RX + TRIPLE - 1; ++j) {
          const vec value = broadcast(pixel_value(x[ry], odd, j)[0]);
#pragma GCC unroll 3
          for (int kx = 0; kx < TRIPLE; ++kx) {
            const int m = j - kx;
            if (m >= 0 && m < RX) sums[ry * RX + m][0] = fma(value, weight[kx], sums[ry * RX + m][0]);
          }
        }
        ++x[ry];
      }
    }
  }
  finish_tile<1, RY * RX>(
      t, sums, [t](int m) { return (m / RX) * t->out_row_step + (m % RX) * t->out_pixel_step; });
}

// The widest tile: half the sums in each of two rows, or all of them in one, but never more than 14 pixels.
static const int MAX_RX_ONE = TILE_SUMS / 2;

template <int NV, int RY, int RX>
static void tile_if(const Tile* t) {
  if constexpr (NV * RY * RX <= TILE_SUMS) {
    if (NV == 1 && t->triple)
      triple_tile<RY, RX>(t);
    else
      tile<NV, RY, RX>(t);
  }
}

template <int NV, int RY>
static void tile_of_width(int64_t rx, const Tile* t) {
  switch (rx) {
    case 1: return tile_if<NV, RY, 1>(t);
    case 2: return tile_if<NV, RY, 2>(t);
    case 3: return tile_if<NV, RY, 3>(t);
    case 4: return tile_if<NV, RY, 4>(t);
    case 5: return tile_if<NV, RY, 5>(t);
    case 6: return tile_if<NV, RY, 6>(t);
    case 7: return tile_if<NV, RY, 7>(t);
    case 8: return tile_if<NV, RY, 8>(t);
    case 9: return tile_if<NV, RY, 9>(t);
    case 10: return tile_if<NV, RY, 10>(t);
    case 11: return tile_if<NV, RY, 11>(t);
    case 12: return tile_if<NV, RY, 12>(t);
    case 13: return tile_if<NV, RY, 13>(t);
    case 14: return tile_if<NV, RY, 14>(t);
  }
}

// Registers of channels per pass over a block of this width: AVX2 passes twice over a block of 32.
static inline int64_t pass_registers(int64_t width) { return width >= 2 * LANES ? 2 : 1; }

// One tile of ry (1 or 2) rows and rx <= MAX_RX_ONE pixels.
static inline void run_tile(int64_t registers, int64_t ry, int64_t rx, const Tile* t) {
  if (registers == 2) return ry == 2 ? tile_of_width<2, 2>(rx, t) : tile_of_width<2, 1>(rx, t);
  if constexpr (LANES == HALF_BLOCK) return ry == 2 ? tile_of_width<1, 2>(rx, t) : tile_of_width<1, 1>(rx, t);
}
