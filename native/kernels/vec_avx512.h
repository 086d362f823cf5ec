// Sixteen floats: the words in which the *_simd.h kernels are written, for AVX-512.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "kernels.h"

static const int LANES = 16, TILE_SUMS = 28;  // TILE_SUMS: registers a tile may use for its sums, of 32
typedef __m512 vec;

static inline __mmask16 first(int64_t n) { return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }
static inline vec zero(void) { return _mm512_setzero_ps(); }
static inline vec load(const float* p) { return _mm512_loadu_ps(p); }
static inline vec load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
static inline void prefetch(const float* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
static inline void store(float* p, vec v) { _mm512_storeu_ps(p, v); }
static inline void store_first(float* p, vec v, int64_t n) { _mm512_mask_storeu_ps(p, first(n), v); }
static inline vec broadcast(float x) { return _mm512_set1_ps(x); }
static inline vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
// b where a is not greater, so that NaN and -0.0 pass as in `b < 0 ? 0 : b`.
static inline vec maximum(vec a, vec b) { return _mm512_max_ps(a, b); }
// NaN where one of them is.
static inline vec maximum_or_nan(vec a, vec b) {
  return _mm512_mask_max_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a, b);
}
static inline vec divide(vec a, vec b) { return _mm512_div_ps(a, b); }
static inline vec keep_first(vec v, int64_t n) { return _mm512_maskz_mov_ps(first(n), v); }
static inline float sum(vec v) { return _mm512_reduce_add_ps(v); }

// Sums of floats as doubles, rounded once.
typedef struct {
  __m512d low, high;
} wide;
static inline wide wide_zero(void) { return wide{_mm512_setzero_pd(), _mm512_setzero_pd()}; }
static inline wide wide_add(wide a, vec b) {
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(b), 1));
  return wide{_mm512_add_pd(a.low, _mm512_cvtps_pd(_mm512_castps512_ps256(b))),
              _mm512_add_pd(a.high, _mm512_cvtps_pd(high))};
}
static inline vec wide_divide(wide a, double b) {
  const __m512d d = _mm512_set1_pd(b);
  const __m512 low = _mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_div_pd(a.low, d)));
  const __m256 high = _mm512_cvtpd_ps(_mm512_div_pd(a.high, d));
  return _mm512_castpd_ps(_mm512_insertf64x4(_mm512_castps_pd(low), _mm256_castps_pd(high), 1));
}

// Gathers for the sparse kernels: n >= 1 leading lanes count, the others are zero.
typedef __m512i ints;
static inline ints ints_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
static inline ints ints_u16(const uint16_t* p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)); }
static inline ints ints_u32(const uint32_t* p) { return _mm512_loadu_si512(p); }
static inline vec gather(const float* base, ints i) { return _mm512_i32gather_ps(i, base, 4); }
static inline vec gather_first(const float* base, ints i, int64_t n) {
  return _mm512_mask_i32gather_ps(zero(), first(n), i, base, 4);
}
// A codebook of up to TABLE_REGISTERS entries, looked up without memory.
enum { TABLE_REGISTERS = 64 };
typedef struct {
  vec part[4];
} table_vec;
static inline table_vec load_table(const float* t, int64_t size) {
  table_vec r;
  for (int i = 0; i < 4; ++i) r.part[i] = size > 16 * i ? load_first(t + 16 * i, size - 16 * i) : zero();
  return r;
}
// The permutation uses the low five bits of each index; bit 5 chooses the pair of registers.
static inline vec look_up(table_vec t, ints i) {
  const vec low = _mm512_permutex2var_ps(t.part[0], i, t.part[1]);
  const vec high = _mm512_permutex2var_ps(t.part[2], i, t.part[3]);
  return _mm512_mask_mov_ps(low, _mm512_test_epi32_mask(i, _mm512_set1_epi32(32)), high);
}
