// Product with a dense matrix whose weights are codes: its layout, and the declaration of every variant. C headers
// only, as kernels.h.
//
// Lanes are rows. The codes of `group` neighbouring columns of a row form a digit, the first the least significant,
// base table_size; all rows share the 2^bits sums that a digit can mean, so that a register holds them and a
// permutation looks them up: four signs, three ternary weights or one of 16 values each cost a shift, a permutation and
// an addition. Digits of a row lie side by side in words, the first in the lowest bits. Larger codebooks (bits 8) are
// bytes: gathered, or converted where the table is a straight line. In product quantisation each digit has sums of its
// own, of `group` numbers that belong together.
#pragma once
#include "kernels.h"

// The sums of a digit d are x0 * basis[0][d] + x1 * basis[1][d] + ...; `negative_basis`, if set, has those of the
// table's negative values, and `basis` then those of the others alone. y[o] = scale[o] * sum (+ negative[o] * sum of
// negative_basis).
typedef struct {
  int64_t rows, cols;
  int64_t lanes;           // rows of a register
  int64_t bits, group;     // of a digit; 8: bytes
  int64_t words;           // per row
  const uint32_t* packed;  // [registers][words][lanes]
  const uint8_t* bytes;    // [registers][cols][lanes]
  const float* basis;      // [group][2^bits], or one such for each digit of a row
  int64_t book;            // floats from the basis of a digit to that of the next; 0: they share one
  const float* negative_basis;
  const float* scale;     // [rows] or null
  const float* negative;  // [rows], set exactly when negative_basis is
  int line;               // bytes: basis[0][c] = base + step * (c - 128)
  float base, step;
} CodedMatrix;
enum { CODED_SAMPLES = 4 };
static inline int64_t coded_digits(const CodedMatrix* m) { return 32 / m->bits; }  // per word

// out[n][o] for n in [n0, n1) and the rows of registers [register0, register1), register0 even. `expand`, which decides
// the order of the additions: whether weights become floats, a part at a time that stays in the first-level cache, for
// the tile of the dense kernel. That wants many samples; the variant for-loops ignores it.
typedef struct {
  int64_t n0, n1, register0, register1;
  int expand;
} CodedTask;
// scratch: the inputs of CODED_SAMPLES samples, zeros up to the last digit of a row.
static inline int64_t coded_padded_cols(const CodedMatrix* m) {
  return m->bits == 8 ? m->cols : m->words * coded_digits(m) * m->group;
}
static inline int64_t coded_scratch(const CodedMatrix* m) {
  return (coded_padded_cols(m) + 16) * CODED_SAMPLES * (int64_t)sizeof(float);
}
// scratch to expand: so many columns of two registers of rows; of the inputs of all samples, each in lines of its own.
enum { CODED_COLUMNS = 192, CODED_LINE = CODED_COLUMNS + 16 };
static inline int64_t coded_expand_scratch(int64_t samples) {
  return (CODED_COLUMNS * BLOCK + CODED_LINE * samples) * (int64_t)sizeof(float);
}
#define CODED_LINEAR_ARGUMENTS \
  const CodedMatrix *matrix, const Epilogue *epilogue, const float *x, float *out, const CodedTask *task, void *scratch
void coded_linear_ref(CODED_LINEAR_ARGUMENTS);
void coded_linear_avx2(CODED_LINEAR_ARGUMENTS);
void coded_linear_avx512(CODED_LINEAR_ARGUMENTS);
