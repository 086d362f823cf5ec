// The most that the inner step of bytes_<isa> could do. Include byte_step_<isa>.h first.
#pragma once
#include "bytes.h"

static int64_t byte_peak(int64_t repeats, int32_t* keep) {
  enum { SUMS = 10 };
  ints sums[SUMS], x = ints_all(*keep), w = ints_all(0x01020304);
#pragma GCC unroll 10
  for (int i = 0; i < SUMS; ++i) sums[i] = ints_zero();
  for (int64_t r = 0; r < repeats; ++r) {
    // Another operand each time, for all that the compiler knows: none of the steps may be left out.
#pragma GCC unroll 10
    for (int i = 0; i < SUMS; ++i) {
      sums[i] = dot(sums[i], x, w);
      __asm__ volatile("" : "+v"(x), "+v"(sums[i]));
    }
  }
#pragma GCC unroll 10
  for (int i = 1; i < SUMS; ++i) sums[0] = ints_add(sums[0], sums[i]);
  int32_t each[LANES];
  ints_store(each, sums[0]);
  *keep += each[0];
  return 2 * WORD_CODES * LANES * SUMS;
}
