// Convolution of byte codes, AVX-512 without VNNI.
#include "byte_step_avx512.h"

static inline void copy_codes(const uint8_t* from, uint8_t* bytes, int64_t count) {
  uint16_t* to = (uint16_t*)bytes;
  int64_t i = 0;
  for (; i + 32 <= count; i += 32)
    _mm512_storeu_si512(to + i, _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)(from + i))));
  for (; i < count; ++i) to[i] = from[i];
}

#include "bytes_simd.h"

void bytes_avx512(BYTES_ARGUMENTS) { byte_conv(conv, epilogue, x, task, scratch); }
