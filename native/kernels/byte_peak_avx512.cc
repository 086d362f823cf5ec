// The peak of exact products of bytes, AVX-512 without VNNI.
#include "byte_step_avx512.h"

#include "byte_peak_simd.h"

int64_t byte_peak_avx512(BYTE_PEAK_ARGUMENTS) { return byte_peak(repeats, keep); }
