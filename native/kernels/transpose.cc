// A matrix transposed, in squares that stay in the first-level cache.
#include "kernels.h"

enum { SIDE = 16 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Images of a few channels: the compiler makes vectors of loops whose inner length it knows.
template <int ROWS, class T>
static void interleave(int64_t columns, const T* __restrict x, T* __restrict out) {
  for (int64_t c = 0; c < columns; ++c)
    for (int r = 0; r < ROWS; ++r) out[c * ROWS + r] = x[r * columns + c];
}
template <int COLUMNS, class T>
static void separate(int64_t rows, const T* __restrict x, T* __restrict out) {
  for (int64_t r = 0; r < rows; ++r)
    for (int c = 0; c < COLUMNS; ++c) out[c * rows + r] = x[r * COLUMNS + c];
}

template <class T>
static void transpose(int64_t rows, int64_t columns, const T* x, T* out) {
  if (rows == 2) return interleave<2>(columns, x, out);
  if (rows == 3) return interleave<3>(columns, x, out);
  if (rows == 4) return interleave<4>(columns, x, out);
  if (columns == 2) return separate<2>(rows, x, out);
  if (columns == 3) return separate<3>(rows, x, out);
  if (columns == 4) return separate<4>(rows, x, out);
  for (int64_t r0 = 0; r0 < rows; r0 += SIDE)
    for (int64_t c0 = 0; c0 < columns; c0 += SIDE) {
      const int64_t r1 = least(r0 + SIDE, rows), c1 = least(c0 + SIDE, columns);
      for (int64_t c = c0; c < c1; ++c)
        for (int64_t r = r0; r < r1; ++r) out[c * rows + r] = x[r * columns + c];
    }
}

void transpose_portable(int64_t rows, int64_t columns, int64_t bytes, const void* x, void* out) {
  if (bytes == 1)
    transpose(rows, columns, (const uint8_t*)x, (uint8_t*)out);
  else
    transpose(rows, columns, (const uint32_t*)x, (uint32_t*)out);
}
