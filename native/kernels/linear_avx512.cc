// Matrix product, AVX-512.
#include "vec_avx512.h"

#include "linear_simd.h"

void linear_avx512(LINEAR_ARGUMENTS) { linear(in_c, out_c, weights, epilogue, x, out, task); }
