// Product with coded weights, AVX-512: digits of four or five bits, one permutation each.
#include "vec_avx512.h"

#define CODED_DIGITS DIGITS_OF(4, 4) DIGITS_OF(5, 3) DIGITS_OF(4, 2) DIGITS_OF(5, 2) DIGITS_OF(4, 1) DIGITS_OF(5, 1)

template <int BITS>
static inline vec look_up(const vec* table, ints digits) {
  return BITS == 4 ? _mm512_permutexvar_ps(digits, table[0])
                   : _mm512_permutex2var_ps(table[0], digits, table[BITS - 4]);
}
template <int BITS>
static inline ints shift_right(ints digits) {
  return _mm512_srli_epi32(digits, BITS);
}
// Of bytes that are code ^ 128.
static inline vec signed_bytes(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}

#include "coded_linear_simd.h"

void coded_linear_avx512(CODED_LINEAR_ARGUMENTS) { coded_linear(matrix, epilogue, x, out, task, scratch); }
