// The most that the baseline could do of multiplications of whole numbers and additions.
#include "bytes.h"

int64_t byte_peak_ref(BYTE_PEAK_ARGUMENTS) {
  enum { SUMS = 32 };
  int32_t sums[SUMS] = {0};
  for (int64_t r = 0; r < repeats; ++r)
    for (int i = 0; i < SUMS; ++i) sums[i] += (int16_t)(*keep + i) * (int16_t)r;
  for (int i = 0; i < SUMS; ++i) *keep ^= sums[i];
  return 2 * SUMS;
}
