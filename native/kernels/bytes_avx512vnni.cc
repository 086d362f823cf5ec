// Convolution of byte codes, AVX-512 with VNNI.
#include "byte_step_avx512vnni.h"

static inline void copy_codes(const uint8_t* from, uint8_t* to, int64_t count) { memcpy(to, from, count); }

#include "bytes_simd.h"

void bytes_avx512vnni(BYTES_ARGUMENTS) { byte_conv(conv, epilogue, x, task, scratch); }
