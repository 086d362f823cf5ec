// Matrix product, AVX2.
#include "vec_avx2.h"

#include "linear_simd.h"

void linear_avx2(LINEAR_ARGUMENTS) { linear(in_c, out_c, weights, epilogue, x, out, task); }
