// Pooling, AVX2.
#include "vec_avx2.h"

#include "pool2d_simd.h"

void pool2d_avx2(POOL2D_ARGUMENTS) { pool2d(shape, x, out, row0, row1); }
