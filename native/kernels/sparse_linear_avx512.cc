// Sparse matrix product, AVX-512.
#include "vec_avx512.h"

#include "sparse_linear_simd.h"

void sparse_linear_avx512(SPARSE_LINEAR_ARGUMENTS) { sparse_linear(matrix, epilogue, x, out, batch, task, scratch); }
