// Bits of eight lanes, for AVX2. Include vec_avx2.h first.
#pragma once

static inline uint32_t lanes_set(ints v, int bit) {
  return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_sll_epi32(v, _mm_cvtsi32_si128(31 - bit))));
}
static inline uint32_t lanes_not_negative(vec v) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GE_OQ));
}
static inline uint32_t lanes_less(ints a, ints b) {
  return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a)));
}
static inline ints ints_shift_left(ints v, int by) { return _mm256_sll_epi32(v, _mm_cvtsi32_si128(by)); }
