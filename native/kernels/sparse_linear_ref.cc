// Sparse matrix product on codes, as for-loops. Normative.
#include "epilogue_ref.h"
#include "kernels.h"

static int64_t column(const SparseMatrix* m, int64_t entry) {
  return m->columns16 ? m->columns16[entry] : m->columns32[entry];
}

static float value(const SparseMatrix* m, int64_t entry) {
  if (m->codes8) return m->table[m->codes8[entry]];
  if (m->codes16) return m->table[m->codes16[entry]];
  return m->table[entry];
}

void sparse_linear_ref(SPARSE_LINEAR_ARGUMENTS) {
  (void)batch, (void)scratch;
  for (int64_t n = task->n0; n < task->n1; ++n) {
    for (int64_t row = task->row0; row < task->row1; ++row) {
      float sum = 0;
      for (int64_t e = sparse_begin(matrix, row); e < sparse_end(matrix, row); ++e)
        sum += value(matrix, e) * x[n * matrix->cols + column(matrix, e)];
      out[n * matrix->rows + row] = finish(epilogue, sum, row, n * matrix->rows + row);
    }
  }
}
