// The peak of exact products of bytes, AVX2.
#include "vec_avx2.h"

#include <string.h>

#include "sums_avx2.h"

static inline ints dot(ints sum, ints x, ints w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }

#include "byte_peak_simd.h"

int64_t byte_peak_avx2(BYTE_PEAK_ARGUMENTS) { return byte_peak(repeats, keep, 2); }
