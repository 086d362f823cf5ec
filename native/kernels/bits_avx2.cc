// Sums over bit planes, for AVX2.
#include "byte_lanes_avx2.h"

enum { TILE_PAIRS = 1 };

#include "bits_table.h"

void bits_avx2(BITS_ARGUMENTS) { sum_of_width(s, x, pixels, weights, width, sums); }
