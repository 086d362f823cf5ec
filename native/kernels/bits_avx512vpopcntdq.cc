// Sums over bit planes: lanes are output channels, a word of activations meets 16 channels at once.
#include <immintrin.h>

#include "bits.h"

enum { TILE_PIXELS = 4, LANES = 16 };

template <int FORM>
static inline __m512i combine(__m512i a, __m512i b) {
  return FORM == BITS_XOR ? _mm512_xor_si512(a, b) : _mm512_and_si512(a, b);
}

// PX pixels times NV registers of channels. WORDS: words per tap, or 0 for any number. The loop over words is hardly
// unrolled: more code than the decoded cache holds ran 20 % slower.
template <int FORM, int PX, int NV, int WORDS>
static void tile(const BitSums* s, const uint32_t* const* pixels, const uint32_t* weights, int32_t* sums) {
  __m512i acc[PX][NV];
#pragma GCC unroll 32
  for (int m = 0; m < PX; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) acc[m][v] = _mm512_setzero_si512();

  const int64_t words = WORDS ? WORDS : s->words;
  for (const BitPass* p = s->pass; p < s->pass + s->passes; ++p) {
    if (p->shift || p->negate) {
      const __m512i sign = _mm512_set1_epi32(-p->negate);
#pragma GCC unroll 32
      for (int m = 0; m < PX; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
          acc[m][v] = _mm512_sll_epi32(acc[m][v], _mm_cvtsi32_si128(p->shift));
          acc[m][v] = _mm512_sub_epi32(_mm512_xor_si512(acc[m][v], sign), sign);
        }
    }
    const uint32_t* w = weights + p->weights * bits_steps(s) * (NV * LANES);
    const uint32_t* x[PX];
#pragma GCC unroll 32
    for (int m = 0; m < PX; ++m) x[m] = pixels[m] + p->x;
    for (int64_t ky = 0; ky < s->kernel_h; ++ky)
      for (int64_t kx = 0; kx < s->kernel_w; ++kx) {
        const int64_t tap = ky * s->row_step + kx * s->column_step;
#pragma GCC unroll 2
        for (int64_t i = 0; i < words; ++i) {
          __m512i weight[NV];
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) weight[v] = _mm512_load_si512(w + v * LANES);
          w += NV * LANES;
#pragma GCC unroll 32
          for (int m = 0; m < PX; ++m) {
            const __m512i value = _mm512_set1_epi32((int32_t)x[m][tap + i]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v)
              acc[m][v] = _mm512_add_epi32(acc[m][v], _mm512_popcnt_epi32(combine<FORM>(value, weight[v])));
          }
        }
      }
  }
#pragma GCC unroll 32
  for (int m = 0; m < PX; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) _mm512_storeu_si512(sums + m * BITS_BLOCK + v * LANES, acc[m][v]);
}

template <int FORM, int NV, int WORDS>
static void tiles(BITS_ARGUMENTS) {
  (void)width;
  const uint32_t* w = (const uint32_t*)weights;
  for (; pixels >= TILE_PIXELS; pixels -= TILE_PIXELS, x += TILE_PIXELS, sums += TILE_PIXELS * BITS_BLOCK)
    tile<FORM, TILE_PIXELS, NV, WORDS>(s, x, w, sums);
  switch (pixels) {
    case 3: return tile<FORM, 3, NV, WORDS>(s, x, w, sums);
    case 2: return tile<FORM, 2, NV, WORDS>(s, x, w, sums);
    case 1: return tile<FORM, 1, NV, WORDS>(s, x, w, sums);
  }
}

template <int FORM, int NV>
static void of_words(BITS_ARGUMENTS) {
  switch (s->words) {
    case 1: return tiles<FORM, NV, 1>(s, x, pixels, weights, width, sums);
    case 2: return tiles<FORM, NV, 2>(s, x, pixels, weights, width, sums);
    default: return tiles<FORM, NV, 0>(s, x, pixels, weights, width, sums);
  }
}

template <int FORM>
static void of_width(BITS_ARGUMENTS) {
  switch (width / LANES) {
    case 1: return of_words<FORM, 1>(s, x, pixels, weights, width, sums);
    case 2: return of_words<FORM, 2>(s, x, pixels, weights, width, sums);
    case 3: return of_words<FORM, 3>(s, x, pixels, weights, width, sums);
    case 4: return of_words<FORM, 4>(s, x, pixels, weights, width, sums);
  }
}

void bits_avx512vpopcntdq(BITS_ARGUMENTS) {
  if (s->form == BITS_XOR) return of_width<BITS_XOR>(s, x, pixels, weights, width, sums);
  return of_width<BITS_AND>(s, x, pixels, weights, width, sums);
}
