// The peak of multiplications and additions of the baseline.
#include "kernels.h"

enum { SUMS = 32 };

float fma_peak_ref(int64_t turns, double* operations) {
  float sums[SUMS];
  for (int i = 0; i < SUMS; ++i) sums[i] = (float)i;
  for (int64_t turn = 0; turn < turns; ++turn)
    for (int i = 0; i < SUMS; ++i) sums[i] = sums[i] * 0.5f + 1.0f;
  float all = 0;
  for (int i = 0; i < SUMS; ++i) all += sums[i];
  *operations = 2.0 * SUMS * (double)turns;
  return all;
}
