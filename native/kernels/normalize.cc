// Pixels of one byte to normalised floats.
#include "kernels.h"

void normalize_portable(int64_t rows, int64_t channels, const uint8_t* x, const float* scale, const float* shift, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* v = x + r * channels;
    float* __restrict__ y = out + r * channels;
    for (int64_t c = 0; c < channels; ++c) y[c] = (float)v[c] / 255.0f * scale[c] + shift[c];
  }
}
