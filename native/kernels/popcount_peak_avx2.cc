// The most that looking up the counts of four bits could do: a look-up and an addition per 32 of them.
#include <immintrin.h>

#include "bits.h"

int64_t popcount_peak_avx2(POPCOUNT_PEAK_ARGUMENTS) {
  enum { SUMS = 8 };
  const __m256i counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  __m256i sums[SUMS], weights[SUMS];
#pragma GCC unroll 8
  for (int n = 0; n < SUMS; ++n) {
    sums[n] = _mm256_setzero_si256();
    weights[n] = _mm256_set1_epi8((char)n);
  }
  for (int64_t i = 0; i < repeats; ++i) {
    __m256i table = counts;
    __asm__("" : "+x"(table));  // another one each time, for all that the compiler knows
#pragma GCC unroll 8
    for (int n = 0; n < SUMS; ++n) sums[n] = _mm256_add_epi8(sums[n], _mm256_shuffle_epi8(table, weights[n]));
  }
#pragma GCC unroll 8
  for (int n = 0; n < SUMS; ++n) *keep += _mm256_extract_epi32(sums[n], 0);
  return 2 * 4 * 32 * SUMS;
}
