// Layers with few weights in every window of inputs, AVX2.
#include "vec_avx2.h"

enum { PATTERN_SUMS = 6 };
typedef struct {
  vec low, high;
} Inputs;
static inline Inputs load_inputs(const float* x, int64_t n) {
  const Inputs inputs = {load_first(x, n), n > LANES ? load_first(x + LANES, n - LANES) : zero()};
  return inputs;
}
// The permutation uses the low three bits of each index; bit 3, moved to the sign, chooses the half.
static inline vec pick(Inputs inputs, ints place) {
  const vec half = _mm256_castsi256_ps(_mm256_slli_epi32(place, 28));
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(inputs.low, place), _mm256_permutevar8x32_ps(inputs.high, place),
                          half);
}
static inline ints shifted(ints place, int bits) { return _mm256_srli_epi32(place, bits); }

#include "pattern_conv_simd.h"

void pattern_conv_avx2(PATTERN_ARGUMENTS(PatternWeights)) {
  pattern_conv(shape, weights, epilogue, x, out, task, scratch);
}
