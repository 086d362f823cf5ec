// Convolution, AVX2.
#include "vec_avx2.h"

#include "conv2d_simd.h"

void conv2d_avx2(CONV2D_ARGUMENTS) { conv2d(shape, weights, epilogue, x, out, task, scratch); }
