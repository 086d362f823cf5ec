// Floats to codes, for AVX-512.
#include <string.h>

#include "vec_avx512.h"

#include "sums_avx512.h"

#include "lane_bits_avx512.h"

#include "encode_simd.h"

void encode_avx512(ENCODE_ARGUMENTS) { encode_row(e, x, pixels, codes); }
