// Pooling, AVX-512.
#include "vec_avx512.h"

#include "pool2d_simd.h"

void pool2d_avx512(POOL2D_ARGUMENTS) { pool2d(shape, x, out, row0, row1); }
