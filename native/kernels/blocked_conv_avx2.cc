// Layers whose output channels share in sixteens where their weights are, AVX2.
#include "vec_avx2.h"

#include "blocked_conv_simd.h"

void blocked_conv_avx2(PATTERN_ARGUMENTS(BlockedWeights)) {
  blocked_conv(shape, weights, epilogue, x, out, task, scratch);
}
