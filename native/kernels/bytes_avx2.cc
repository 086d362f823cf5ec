// Convolution of byte codes, AVX2.
#include "byte_step_avx2.h"

static inline void copy_codes(const uint8_t* from, uint8_t* bytes, int64_t count) {
  uint16_t* to = (uint16_t*)bytes;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    _mm256_storeu_si256((__m256i*)(to + i), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(from + i))));
  for (; i < count; ++i) to[i] = from[i];
}

#include "bytes_simd.h"

void bytes_avx2(BYTES_ARGUMENTS) { byte_conv(conv, epilogue, x, task, scratch); }
