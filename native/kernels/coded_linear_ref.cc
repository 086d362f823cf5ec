// Product with coded weights, as for-loops over bytes. Normative.
#include "coded_linear.h"
#include "epilogue_ref.h"

// A row of digits that have sums of their own.
static float sum_of_digits(const CodedMatrix* m, const uint32_t* words, const float* x) {
  const int64_t digits = coded_digits(m), size = (int64_t)1 << m->bits;
  float sum = 0;
  for (int64_t c = 0; c < m->cols; ++c) {
    const int64_t digit = c / m->group;
    const uint32_t code = words[digit / digits] >> digit % digits * m->bits & (size - 1);
    sum += m->basis[digit * m->book + c % m->group * size + code] * x[c];
  }
  return sum;
}

void coded_linear_ref(CODED_LINEAR_ARGUMENTS) {
  (void)scratch;
  const CodedMatrix* m = matrix;
  if (m->book) {
    for (int64_t n = task->n0; n < task->n1; ++n)
      for (int64_t o = task->register0; o < task->register1; ++o)
        out[n * m->rows + o] = finish(epilogue, sum_of_digits(m, m->packed + o * m->words, x + n * m->cols), o,
                                      n * m->rows + o);
    return;
  }
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
