// The peak of exact products of bytes, AVX-512 without VNNI.
#include "vec_avx512.h"

#include <string.h>

#include "sums_avx512.h"

static inline ints dot(ints sum, ints x, ints w) { return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w)); }

#include "byte_peak_simd.h"

int64_t byte_peak_avx512(BYTE_PEAK_ARGUMENTS) { return byte_peak(repeats, keep, 2); }
