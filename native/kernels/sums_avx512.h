// Sixteen int32 sums, for AVX-512. Include vec_avx512.h first.
#pragma once

static inline ints ints_zero(void) { return _mm512_setzero_si512(); }
static inline ints ints_load(const void* p) { return _mm512_loadu_si512(p); }
static inline void ints_store(int32_t* p, ints v) { _mm512_storeu_si512(p, v); }
static inline ints ints_all(int32_t x) { return _mm512_set1_epi32(x); }
static inline ints ints_add(ints a, ints b) { return _mm512_add_epi32(a, b); }
static inline ints ints_sub(ints a, ints b) { return _mm512_sub_epi32(a, b); }
static inline ints ints_mul(ints a, ints b) { return _mm512_mullo_epi32(a, b); }
static inline ints ints_keep_first(ints v, int64_t n) { return _mm512_maskz_mov_epi32(first(n), v); }
static inline vec to_float(ints v) { return _mm512_cvtepi32_ps(v); }
static inline vec minimum(vec a, vec b) { return _mm512_min_ps(a, b); }  // b where a is not less: NaN passes
// y >= 0 ? y : y * slope
static inline vec sloped(vec y, vec slope) {
  return _mm512_mask_mul_ps(y, _mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_NGE_UQ), y, slope);
}
static inline vec minus(vec a, vec b) { return _mm512_sub_ps(a, b); }
// Rounded to the nearest whole number, ties to even, between whole numbers; NaN gives the low one.
static inline ints round_between(vec v, vec low, vec high) {
  return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, low), high));
}
static inline ints not_negative(vec v) {
  return _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GE_OQ), 1);
}
// The low bytes of the first n.
static inline void store_bytes(uint8_t* p, ints v, int64_t n) {
  _mm_mask_storeu_epi8(p, first(n), _mm512_cvtepi32_epi8(v));
}
// A byte for each: whether sum >= at, or the contrary where flip is 1.
static inline void store_signs(uint8_t* p, ints sum, ints at, ints flip) {
  const __m128i less = _mm512_cvtepi32_epi8(flip), other = _mm_xor_si128(less, _mm_set1_epi8(1));
  _mm_storeu_si128((__m128i*)p, _mm_mask_blend_epi8(_mm512_cmpge_epi32_mask(sum, at), less, other));
}
static inline void store_not_negative(uint8_t* p, vec v) {
  const __mmask16 signs = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GE_OQ);
  _mm_storeu_si128((__m128i*)p, _mm_maskz_set1_epi8(signs, 1));
}
static inline void store_words(void* p, ints v, int64_t n) { _mm512_mask_storeu_epi32(p, first(n), v); }
// Bit `plane` of each.
static inline void store_bits(uint8_t* p, ints v, int plane) {
  const uint16_t bits = _mm512_test_epi32_mask(v, _mm512_set1_epi32(1 << plane));
  memcpy(p, &bits, sizeof bits);
}
