// Convolution of byte codes, AVX-512 with VNNI.
#include "vec_avx512.h"

#include <string.h>

#include "sums_avx512.h"

typedef int8_t word_weight;
static const int WORD_CODES = 4;
static inline ints dot(ints sum, ints x, ints w) { return _mm512_dpbusd_epi32(sum, x, w); }
static inline ints dot_single(ints sum, ints x, ints w) { return _mm512_dpbusd_epi32(sum, x, w); }
static inline void copy_codes(const uint8_t* from, uint8_t* to, int64_t count) { memcpy(to, from, count); }

#include "bytes_simd.h"

void bytes_avx512vnni(BYTES_ARGUMENTS) { byte_conv(conv, epilogue, x, task, scratch); }
