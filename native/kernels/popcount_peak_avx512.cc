// The most that the inner step of bits_avx512 could do.
#include "byte_lanes_avx512.h"

#include "popcount_peak_table.h"

int64_t popcount_peak_avx512(POPCOUNT_PEAK_ARGUMENTS) { return table_peak(repeats, keep); }
