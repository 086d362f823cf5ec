// The most that the inner step of bits_avx512vpopcntdq could do: xor, popcount and addition of a register.
#include <immintrin.h>

#include "bits.h"

int64_t popcount_peak_avx512vpopcntdq(POPCOUNT_PEAK_ARGUMENTS) {
  enum { PIXELS = 4, VECTORS = 2, LANES = 16 };
  __m512i sums[PIXELS][VECTORS], weights[VECTORS], x[PIXELS];
#pragma GCC unroll 2
  for (int v = 0; v < VECTORS; ++v) weights[v] = _mm512_set1_epi32(0x12345 * (v + 1));
#pragma GCC unroll 4
  for (int m = 0; m < PIXELS; ++m) {
    x[m] = _mm512_set1_epi32(m + *keep);
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) sums[m][v] = _mm512_setzero_si512();
  }
  for (int64_t i = 0; i < repeats; ++i) {
    // Other operands each time, for all that the compiler knows: none of the steps may be left out.
#pragma GCC unroll 4
    for (int m = 0; m < PIXELS; ++m) __asm__("" : "+v"(x[m]));
#pragma GCC unroll 4
    for (int m = 0; m < PIXELS; ++m)
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v)
        sums[m][v] = _mm512_add_epi32(sums[m][v], _mm512_popcnt_epi32(_mm512_xor_si512(x[m], weights[v])));
  }
#pragma GCC unroll 4
  for (int m = 0; m < PIXELS; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) *keep += _mm512_reduce_add_epi32(sums[m][v]);
  return 2 * 32 * LANES * PIXELS * VECTORS;
}
