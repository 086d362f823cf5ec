// The end of sums over bit planes, for AVX-512.
#include <string.h>

#include "vec_avx512.h"

#include "sums_avx512.h"

#include "lane_bits_avx512.h"

#include "bits_finish_simd.h"

void bits_finish_avx512(BITS_FINISH_ARGUMENTS) { finish_block(f, t); }
