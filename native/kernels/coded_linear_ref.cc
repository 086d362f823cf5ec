// Product with coded weights, as for-loops over bytes. Normative.
#include "coded_linear.h"
#include "epilogue_ref.h"

void coded_linear_ref(CODED_LINEAR_ARGUMENTS) {
  (void)scratch;
  const CodedMatrix* m = matrix;
  for (int64_t n = task->n0; n < task->n1; ++n)
    for (int64_t o = task->register0; o < task->register1; ++o) {
      const uint8_t* codes = m->bytes + o * m->cols;
      float sum = 0, negative = 0;
      for (int64_t c = 0; c < m->cols; ++c) {
        const uint8_t code = codes[c];
        sum += m->basis[code] * x[n * m->cols + c];
        if (m->negative_basis) negative += m->negative_basis[code] * x[n * m->cols + c];
      }
      if (m->scale) sum *= m->scale[o];
      if (m->negative_basis) sum += negative * m->negative[o];
      out[n * m->rows + o] = finish(epilogue, sum, o, n * m->rows + o);
    }
}
