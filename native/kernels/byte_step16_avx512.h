// The inner step of byte convolutions whose sums are known to fit 16 bits, AVX-512: vpmaddubsw can't saturate then.
#pragma once
#include "vec_avx512.h"

#include <string.h>

#include "sums_avx512.h"

typedef int8_t word_weight;
static const int WORD_CODES = 4;
// Two sums of 16 bits in each lane.
static inline ints dot(ints sum, ints x, ints w) { return _mm512_add_epi16(sum, _mm512_maddubs_epi16(x, w)); }
static inline ints settle(ints sum) { return _mm512_madd_epi16(sum, _mm512_set1_epi16(1)); }
