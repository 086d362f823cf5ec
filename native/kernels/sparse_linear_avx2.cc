// Sparse matrix product, AVX2.
#include "vec_avx2.h"

#include "sparse_linear_simd.h"

void sparse_linear_avx2(SPARSE_LINEAR_ARGUMENTS) { sparse_linear(matrix, epilogue, x, out, batch, task, scratch); }
