// Eight floats: the words in which the *_simd.h kernels are written, for AVX2 with FMA.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "kernels.h"

static const int LANES = 8, TILE_SUMS = 12;  // TILE_SUMS: registers a tile may use for its sums, of 16
typedef __m256 vec;

static inline __m256i first(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 8 ? 8 : (int)n), lane);
}
static inline vec zero(void) { return _mm256_setzero_ps(); }
static inline vec load(const float* p) { return _mm256_loadu_ps(p); }
static inline vec load_first(const float* p, int64_t n) { return n >= 8 ? load(p) : _mm256_maskload_ps(p, first(n)); }
static inline void prefetch(const float* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
static inline void store(float* p, vec v) { _mm256_storeu_ps(p, v); }
static inline void store_first(float* p, vec v, int64_t n) {
  if (n >= 8)
    store(p, v);
  else
    _mm256_maskstore_ps(p, first(n), v);
}
static inline vec broadcast(float x) { return _mm256_set1_ps(x); }
static inline vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
// b where a is not greater, so that NaN and -0.0 pass as in `b < 0 ? 0 : b`.
static inline vec maximum(vec a, vec b) { return _mm256_max_ps(a, b); }
// NaN where one of them is.
static inline vec maximum_or_nan(vec a, vec b) {
  return _mm256_blendv_ps(maximum(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
static inline vec divide(vec a, vec b) { return _mm256_div_ps(a, b); }
static inline vec keep_first(vec v, int64_t n) { return _mm256_and_ps(v, _mm256_castsi256_ps(first(n))); }
static inline float sum(vec v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

// Sums of floats as doubles, rounded once.
typedef struct {
  __m256d low, high;
} wide;
static inline wide wide_zero(void) { return wide{_mm256_setzero_pd(), _mm256_setzero_pd()}; }
static inline wide wide_add(wide a, vec b) {
  return wide{_mm256_add_pd(a.low, _mm256_cvtps_pd(_mm256_castps256_ps128(b))),
              _mm256_add_pd(a.high, _mm256_cvtps_pd(_mm256_extractf128_ps(b, 1)))};
}
static inline vec wide_divide(wide a, double b) {
  const __m256d d = _mm256_set1_pd(b);
  return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_div_pd(a.high, d)), _mm256_cvtpd_ps(_mm256_div_pd(a.low, d)));
}

// Gathers for the sparse kernels: n >= 1 leading lanes count, the others are zero.
typedef __m256i ints;
static inline ints ints_u8(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
static inline ints ints_u16(const uint16_t* p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)); }
static inline ints ints_u32(const uint32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
static inline vec gather(const float* base, ints i) { return _mm256_i32gather_ps(base, i, 4); }
static inline vec gather_first(const float* base, ints i, int64_t n) {
  return _mm256_mask_i32gather_ps(zero(), base, i, _mm256_castsi256_ps(first(n)), 4);
}
// A codebook of up to TABLE_REGISTERS entries, looked up without memory.
enum { TABLE_REGISTERS = 16 };
typedef struct {
  vec low, high;
} table_vec;
static inline table_vec load_table(const float* t, int64_t size) {
  table_vec r = {load_first(t, size), size > 8 ? load_first(t + 8, size - 8) : zero()};
  return r;
}
static inline vec look_up(table_vec t, ints i) {
  // The permutation uses the low three bits of each index; bit 3, moved to the sign, chooses the half.
  const vec half = _mm256_castsi256_ps(_mm256_slli_epi32(i, 28));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.low, i), _mm256_permutevar8x32_ps(t.high, i), half);
}
