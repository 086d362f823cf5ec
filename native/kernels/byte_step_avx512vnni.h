// The inner step of byte convolutions, AVX-512 with VNNI.
#pragma once
#include "vec_avx512.h"

#include <string.h>

#include "sums_avx512.h"

typedef int8_t word_weight;
static const int WORD_CODES = 4;
static inline ints dot(ints sum, ints x, ints w) { return _mm512_dpbusd_epi32(sum, x, w); }
static inline ints settle(ints sum) { return sum; }
