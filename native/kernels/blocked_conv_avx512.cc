// Layers whose output channels share in sixteens where their weights are, AVX-512.
#include "vec_avx512.h"

#include "blocked_conv_simd.h"

void blocked_conv_avx512(PATTERN_ARGUMENTS(BlockedWeights)) {
  blocked_conv(shape, weights, epilogue, x, out, task, scratch);
}
