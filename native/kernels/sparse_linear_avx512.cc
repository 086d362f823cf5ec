// Sparse matrix product, AVX-512.
#include "vec_avx512.h"

#include "sparse_linear_simd.h"
#include "strips_avx512.h"

void sparse_linear_avx512(SPARSE_LINEAR_ARGUMENTS) {
  if (matrix->strips && batch <= STRIP_BATCH) return sparse_strips(matrix, epilogue, x, out, task, scratch);
  sparse_linear(matrix, epilogue, x, out, batch, task, scratch);
}
