// to[c][r] = from[r][c], in squares of 8 x 8. For the AVX2 and AVX-512 kernels.
#pragma once
#include <immintrin.h>
#include <stdint.h>

// Two half rows in one register; the insertion comes straight from memory and costs no shuffle.
static inline __m256 halves(const float* low, const float* high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}

// Columns c .. c + 3 of eight rows become four rows of eight.
static inline void transpose_4x8(const float* from, int64_t from_step, float* to, int64_t to_step) {
  const __m256 r0 = halves(from, from + 4 * from_step);
  const __m256 r1 = halves(from + from_step, from + 5 * from_step);
  const __m256 r2 = halves(from + 2 * from_step, from + 6 * from_step);
  const __m256 r3 = halves(from + 3 * from_step, from + 7 * from_step);
  const __m256 a = _mm256_unpacklo_ps(r0, r1), b = _mm256_unpackhi_ps(r0, r1);
  const __m256 c = _mm256_unpacklo_ps(r2, r3), d = _mm256_unpackhi_ps(r2, r3);
  _mm256_storeu_ps(to, _mm256_shuffle_ps(a, c, 0x44));
  _mm256_storeu_ps(to + to_step, _mm256_shuffle_ps(a, c, 0xee));
  _mm256_storeu_ps(to + 2 * to_step, _mm256_shuffle_ps(b, d, 0x44));
  _mm256_storeu_ps(to + 3 * to_step, _mm256_shuffle_ps(b, d, 0xee));
}

static void transpose(int64_t rows, int64_t cols, const float* from, int64_t from_step, float* to, int64_t to_step) {
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    int64_t c = 0;
    for (; c + 4 <= cols; c += 4) transpose_4x8(from + r * from_step + c, from_step, to + c * to_step + r, to_step);
    for (; c < cols; ++c)
      for (int64_t i = r; i < r + 8; ++i) to[c * to_step + i] = from[i * from_step + c];
  }
  for (; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[c * to_step + r] = from[r * from_step + c];
}
