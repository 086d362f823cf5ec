// Layers with few weights in every window of inputs, AVX-512.
#include "vec_avx512.h"

enum { PATTERN_SUMS = 24 };
typedef vec Inputs;
static inline Inputs load_inputs(const float* x, int64_t n) { return load_first(x, n); }
static inline vec pick(Inputs inputs, ints place) { return _mm512_permutexvar_ps(place, inputs); }
static inline ints shifted(ints place, int bits) { return _mm512_srli_epi32(place, bits); }

#include "pattern_conv_simd.h"

void pattern_conv_avx512(PATTERN_ARGUMENTS(PatternWeights)) {
  pattern_conv(shape, weights, epilogue, x, out, task, scratch);
}
