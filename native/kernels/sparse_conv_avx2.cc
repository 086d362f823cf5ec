// Sparse convolution, AVX2. Eight lanes are too few to lose two of them to shifts: one set, and loads that are not
// aligned.
#include "vec_avx2.h"

enum { SETS = 1 };

template <int K>
static inline vec shifted(vec v) {
  return v;  // never wanted
}

static inline void transpose_square(vec v[8]) {
  vec a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

#include "sparse_conv_simd.h"

void sparse_conv_avx2(SPARSE_CONV_ARGUMENTS) { sparse_conv(weights, epilogue, x, out, task, scratch); }
