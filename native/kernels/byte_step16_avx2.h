// The inner step of byte convolutions whose sums are known to fit 16 bits, AVX2: vpmaddubsw can't saturate then.
#pragma once
#include "vec_avx2.h"

#include <string.h>

#include "sums_avx2.h"

typedef int8_t word_weight;
static const int WORD_CODES = 4;
// Two sums of 16 bits in each lane.
static inline ints dot(ints sum, ints x, ints w) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(x, w)); }
static inline ints settle(ints sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
