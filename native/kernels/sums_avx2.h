// Eight int32 sums, for AVX2. Include vec_avx2.h first.
#pragma once

static inline ints ints_zero(void) { return _mm256_setzero_si256(); }
static inline ints ints_load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
static inline void ints_store(int32_t* p, ints v) { _mm256_storeu_si256((__m256i*)p, v); }
static inline ints ints_all(int32_t x) { return _mm256_set1_epi32(x); }
static inline ints ints_add(ints a, ints b) { return _mm256_add_epi32(a, b); }
static inline ints ints_sub(ints a, ints b) { return _mm256_sub_epi32(a, b); }
static inline ints ints_mul(ints a, ints b) { return _mm256_mullo_epi32(a, b); }
static inline ints ints_keep_first(ints v, int64_t n) { return _mm256_and_si256(v, first(n)); }
static inline vec to_float(ints v) { return _mm256_cvtepi32_ps(v); }
static inline vec minimum(vec a, vec b) { return _mm256_min_ps(a, b); }  // b where a is not less: NaN passes
// y >= 0 ? y : y * slope
static inline vec sloped(vec y, vec slope) {
  return _mm256_blendv_ps(_mm256_mul_ps(y, slope), y, _mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_GE_OQ));
}
static inline vec minus(vec a, vec b) { return _mm256_sub_ps(a, b); }
// Rounded to the nearest whole number, ties to even, between whole numbers; NaN gives the low one.
static inline ints round_between(vec v, vec low, vec high) {
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(v, low), high));
}
static inline ints not_negative(vec v) {
  return _mm256_srli_epi32(_mm256_castps_si256(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GE_OQ)), 31);
}
// The low bytes of the first n.
static inline void store_bytes(uint8_t* p, ints v, int64_t n) {
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const uint64_t bytes = (uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(words, words));
  memcpy(p, &bytes, n < 8 ? (size_t)n : 8);
}
// A byte for each: whether sum >= at, or the contrary where flip is 1.
static inline void store_signs(uint8_t* p, ints sum, ints at, ints flip) {
  const ints not_less = _mm256_add_epi32(_mm256_cmpgt_epi32(at, sum), _mm256_set1_epi32(1));
  store_bytes(p, _mm256_xor_si256(not_less, flip), 8);
}
static inline void store_not_negative(uint8_t* p, vec v) { store_bytes(p, not_negative(v), 8); }
static inline void store_words(void* p, ints v, int64_t n) { _mm256_maskstore_epi32((int*)p, first(n), v); }
// Bit `plane` of each.
static inline void store_bits(uint8_t* p, ints v, int plane) {
  *p = (uint8_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_sll_epi32(v, _mm_cvtsi32_si128(31 - plane))));
}
