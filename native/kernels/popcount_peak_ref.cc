// The most that popcounts of single words could do.
#include "bits.h"
#include "popcount.h"

int64_t popcount_peak_ref(POPCOUNT_PEAK_ARGUMENTS) {
  enum { SUMS = 8 };
  int32_t sums[SUMS] = {0};
  for (int64_t i = 0; i < repeats; ++i)
    for (int n = 0; n < SUMS; ++n) sums[n] += popcount((uint32_t)i ^ (uint32_t)(0x9e3779b9u * n));
  for (int n = 0; n < SUMS; ++n) *keep += sums[n];
  return 2 * 32 * SUMS;
}
