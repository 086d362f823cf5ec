// Depthwise convolution, AVX-512.
#include "vec_avx512.h"

#include "depthwise_simd.h"

void depthwise_avx512(CONV2D_ARGUMENTS) { depthwise(shape, weights, epilogue, x, out, task, scratch); }
