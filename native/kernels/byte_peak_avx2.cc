// The peak of exact products of bytes, AVX2.
#include "byte_step_avx2.h"

#include "byte_peak_simd.h"

int64_t byte_peak_avx2(BYTE_PEAK_ARGUMENTS) { return byte_peak(repeats, keep); }
