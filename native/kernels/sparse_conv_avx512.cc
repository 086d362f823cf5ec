// Sparse convolution, AVX-512.
#include "vec_avx512.h"

enum { SETS = 3 };

template <int K>
static inline vec shifted(vec v) {
  const __m512i from = _mm512_castps_si512(v), none = _mm512_setzero_si512();
  return _mm512_castsi512_ps(K < 0 ? _mm512_alignr_epi32(from, none, 16 + (K < 0 ? K : -1))
                                   : _mm512_alignr_epi32(none, from, K < 0 ? 0 : K));
}

// Pairs of lanes, then quarters, then halves change places.
static inline void transpose_square(vec v[16]) {
  vec a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const vec low0 = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88), high0 = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
    const vec low1 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88),
              high1 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
    v[i] = _mm512_shuffle_f32x4(low0, low1, 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(low0, low1, 0xdd);
    v[i + 4] = _mm512_shuffle_f32x4(high0, high1, 0x88);
    v[i + 12] = _mm512_shuffle_f32x4(high0, high1, 0xdd);
  }
}

#include "sparse_conv_simd.h"

void sparse_conv_avx512(SPARSE_CONV_ARGUMENTS) { sparse_conv(weights, epilogue, x, out, task, scratch); }
