// The inner step of byte convolutions, AVX-512 without VNNI: vpmaddubsw saturates, so codes are widened to 16 bits.
#pragma once
#include "vec_avx512.h"

#include <string.h>

#include "sums_avx512.h"

typedef int16_t word_weight;
static const int WORD_CODES = 2;
static inline ints dot(ints sum, ints x, ints w) { return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w)); }
static inline ints settle(ints sum) { return sum; }
