// The most that the inner step of bits_avx2 could do.
#include "byte_lanes_avx2.h"

#include "popcount_peak_table.h"

int64_t popcount_peak_avx2(POPCOUNT_PEAK_ARGUMENTS) { return table_peak(repeats, keep); }
