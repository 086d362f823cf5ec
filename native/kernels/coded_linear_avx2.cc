// Product with coded weights, AVX2: digits of three bits by one permutation, of four by two. More are slower than to
// gather. Digits of four bits for two or four columns are those of product quantisation.
#include "vec_avx2.h"

#define CODED_DIGITS DIGITS_OF(3, 3) DIGITS_OF(3, 1) DIGITS_OF(4, 1) DIGITS_OF(4, 2) DIGITS_OF(4, 4)

template <int BITS>
static inline vec look_up(const vec* table, ints digits) {
  const vec first = _mm256_permutevar8x32_ps(table[0], digits);
  if (BITS == 3) return first;
  // Bit 3, moved to the sign, chooses the half.
  const vec half = _mm256_castsi256_ps(_mm256_slli_epi32(digits, 28));
  return _mm256_blendv_ps(first, _mm256_permutevar8x32_ps(table[BITS - 3], digits), half);
}
template <int BITS>
static inline ints shift_right(ints digits) {
  return _mm256_srli_epi32(digits, BITS);
}
static inline vec signed_bytes(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}

#include "coded_linear_simd.h"

void coded_linear_avx2(CODED_LINEAR_ARGUMENTS) { coded_linear(matrix, epilogue, x, out, task, scratch); }
