// The most that the inner step of bits_table.h could do. Include byte_lanes_<isa>.h first.
#pragma once
#include "bits.h"

static inline int64_t table_peak(POPCOUNT_PEAK_ARGUMENTS) {
  enum { SUMS = 4, LOOK_UPS = 6 };
  const bytes high_half = bytes_all(0xf0);
  const bytes table = bytes_all(0x21);
  bytes low[SUMS], high[SUMS], weights = bytes_all((uint8_t)(*keep & 15));
#pragma GCC unroll 4
  for (int n = 0; n < SUMS; ++n) low[n] = high[n] = bytes_all((uint8_t)n);
  for (int64_t i = 0; i < repeats; ++i) {
#pragma GCC unroll 4
    for (int n = 0; n < SUMS; ++n) {
      bytes sum[2];
#pragma GCC unroll 6
      for (int k = 0; k < LOOK_UPS; ++k) {
        __asm__ volatile("" : "+x"(weights));  // others each time, for all that the compiler knows
        const bytes count = bytes_look_up(table, weights);
        sum[k / 3] = k % 3 ? bytes_add(sum[k / 3], count) : count;
      }
      low[n] = bytes_add(bytes_add(low[n], sum[0]), sum[1]);
      const bytes mean = bytes_average(bytes_and(sum[0], high_half), bytes_and(sum[1], high_half));
      high[n] = bytes_add(high[n], words_shift_right(mean, 3));
    }
  }
  uint32_t end[BYTES / 4];
#pragma GCC unroll 4
  for (int n = 0; n < SUMS; ++n) {
    bytes_store(end, bytes_xor(low[n], high[n]));
    *keep += end[0];
  }
  return 2 * 2 * 4 * BYTES * LOOK_UPS * SUMS;
}
