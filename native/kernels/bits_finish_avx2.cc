// The end of sums over bit planes, for AVX2.
#include <string.h>

#include "vec_avx2.h"

#include "sums_avx2.h"

#include "lane_bits_avx2.h"

#include "bits_finish_simd.h"

void bits_finish_avx2(BITS_FINISH_ARGUMENTS) { finish_block(f, t); }
