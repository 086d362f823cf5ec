// Bits of sixteen lanes, for AVX-512. Include vec_avx512.h first.
#pragma once

static inline uint32_t lanes_set(ints v, int bit) { return _mm512_test_epi32_mask(v, _mm512_set1_epi32(1 << bit)); }
static inline uint32_t lanes_not_negative(vec v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GE_OQ); }
static inline uint32_t lanes_less(ints a, ints b) { return _mm512_cmplt_epi32_mask(a, b); }
static inline ints ints_shift_left(ints v, int by) { return _mm512_sll_epi32(v, _mm_cvtsi32_si128(by)); }
