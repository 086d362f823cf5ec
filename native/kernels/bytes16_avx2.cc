// Convolution of byte codes whose sums are known to fit 16 bits, AVX2.
#include "byte_step16_avx2.h"

static inline void copy_codes(const uint8_t* from, uint8_t* to, int64_t count) { memcpy(to, from, count); }

#include "bytes_simd.h"

void bytes16_avx2(BYTES_ARGUMENTS) { byte_conv(conv, epilogue, x, task, scratch); }
