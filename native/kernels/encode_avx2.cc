// Floats to codes, for AVX2.
#include <string.h>

#include "vec_avx2.h"

#include "sums_avx2.h"

#include "lane_bits_avx2.h"

#include "encode_simd.h"

void encode_avx2(ENCODE_ARGUMENTS) { encode_row(e, x, pixels, codes); }
