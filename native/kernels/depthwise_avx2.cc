// Depthwise convolution, AVX2.
#include "vec_avx2.h"

#include "depthwise_simd.h"

void depthwise_avx2(CONV2D_ARGUMENTS) { depthwise(shape, weights, epilogue, x, out, task, scratch); }
