// Sums over bit planes, for AVX-512 without a popcount instruction.
#include "byte_lanes_avx512.h"

enum { TILE_PAIRS = 4 };

#include "bits_table.h"

void bits_avx512(BITS_ARGUMENTS) {
  // Half a register or less would be worth no more than AVX2.
  (width <= BYTES / 2 ? bits_avx2 : sum_of_width)(s, x, pixels, weights, width, sums);
}
