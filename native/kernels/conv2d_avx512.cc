// Convolution, AVX-512.
#include "vec_avx512.h"

#include "conv2d_simd.h"

void conv2d_avx512(CONV2D_ARGUMENTS) { conv2d(shape, weights, epilogue, x, out, task, scratch); }
