// Vectors of 32 bytes: AVX2.
#pragma once
#include <immintrin.h>
#include <stdint.h>

enum { BYTES = 32 };
typedef __m256i bytes;

static inline bytes bytes_all(uint8_t b) { return _mm256_set1_epi8((char)b); }
static inline bytes bytes_load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
static inline void bytes_store(void* p, bytes a) { _mm256_storeu_si256((__m256i*)p, a); }
static inline bytes bytes_add(bytes a, bytes b) { return _mm256_add_epi8(a, b); }
static inline bytes bytes_sub(bytes a, bytes b) { return _mm256_sub_epi8(a, b); }
static inline bytes bytes_and(bytes a, bytes b) { return _mm256_and_si256(a, b); }
static inline bytes bytes_xor(bytes a, bytes b) { return _mm256_xor_si256(a, b); }
// (a + b + 1) / 2
static inline bytes bytes_average(bytes a, bytes b) { return _mm256_avg_epu8(a, b); }
// table[index], for indices below 16 into the 16 bytes that every quarter (AVX-512) or half of `table` repeats.
static inline bytes bytes_look_up(bytes table, bytes index) { return _mm256_shuffle_epi8(table, index); }
static inline bytes bytes_table(const uint8_t* aligned) {
  return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)aligned));
}

// The same registers as vectors of 16 or 32 bits.
static inline bytes words_add(bytes a, bytes b) { return _mm256_add_epi16(a, b); }
static inline bytes words_shift_left(bytes a, int n) { return _mm256_slli_epi16(a, n); }
static inline bytes words_shift_right(bytes a, int n) { return _mm256_srli_epi16(a, n); }
// Bytes to 16 bits: of every 16 bytes the first and the last eight.
static inline bytes words_of_first(bytes a) { return _mm256_unpacklo_epi8(a, _mm256_setzero_si256()); }
static inline bytes words_of_last(bytes a) { return _mm256_unpackhi_epi8(a, _mm256_setzero_si256()); }
