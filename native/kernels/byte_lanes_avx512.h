// Vectors of 64 bytes: AVX-512 (F, BW, VL, DQ).
#pragma once
#include <immintrin.h>
#include <stdint.h>

enum { BYTES = 64 };
typedef __m512i bytes;

static inline bytes bytes_all(uint8_t b) { return _mm512_set1_epi8((char)b); }
static inline bytes bytes_load(const void* p) { return _mm512_loadu_si512(p); }
static inline void bytes_store(void* p, bytes a) { _mm512_storeu_si512(p, a); }
static inline bytes bytes_add(bytes a, bytes b) { return _mm512_add_epi8(a, b); }
static inline bytes bytes_sub(bytes a, bytes b) { return _mm512_sub_epi8(a, b); }
static inline bytes bytes_and(bytes a, bytes b) { return _mm512_and_si512(a, b); }
static inline bytes bytes_xor(bytes a, bytes b) { return _mm512_xor_si512(a, b); }
// (a + b + 1) / 2
static inline bytes bytes_average(bytes a, bytes b) { return _mm512_avg_epu8(a, b); }
// table[index], for indices below 16 into the 16 bytes that every quarter (AVX-512) or half of `table` repeats.
static inline bytes bytes_look_up(bytes table, bytes index) { return _mm512_shuffle_epi8(table, index); }
static inline bytes bytes_table(const uint8_t* aligned) {
  return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i*)aligned));
}

// The same registers as vectors of 16 or 32 bits.
static inline bytes words_add(bytes a, bytes b) { return _mm512_add_epi16(a, b); }
static inline bytes words_shift_left(bytes a, int n) { return _mm512_slli_epi16(a, n); }
static inline bytes words_shift_right(bytes a, int n) { return _mm512_srli_epi16(a, n); }
// Bytes to 16 bits: of every 16 bytes the first and the last eight.
static inline bytes words_of_first(bytes a) { return _mm512_unpacklo_epi8(a, _mm512_setzero_si512()); }
static inline bytes words_of_last(bytes a) { return _mm512_unpackhi_epi8(a, _mm512_setzero_si512()); }
