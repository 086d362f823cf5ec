// The peak of exact products of bytes, AVX-512 with VNNI.
#include "vec_avx512.h"

#include <string.h>

#include "sums_avx512.h"

static inline ints dot(ints sum, ints x, ints w) { return _mm512_dpbusd_epi32(sum, x, w); }

#include "byte_peak_simd.h"

int64_t byte_peak_avx512vnni(BYTE_PEAK_ARGUMENTS) { return byte_peak(repeats, keep, 4); }
