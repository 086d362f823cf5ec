// Images to codes, the bytes of a pixel in one lane. Include vec_<isa>.h, sums_<isa>.h, lane_bits_<isa>.h and
// encode_simd.h first.
#pragma once

// The first n lanes of a channel.
static inline vec image_values(const void* x, int uint8, int64_t at, int64_t n) {
  if (!uint8) return load_first((const float*)x + at, n);
  uint8_t bytes[LANES] = {0};
  const uint8_t* p = (const uint8_t*)x + at;
  if (n < LANES) p = (const uint8_t*)memcpy(bytes, p, n);
  return divide(to_float(ints_u8(p)), broadcast(255.0f));
}

static inline void encode_image(ENCODE_IMAGE_ARGUMENTS) {
  for (int64_t i = 0; i < pixels; i += LANES) {
    const int64_t n = pixels - i < LANES ? pixels - i : LANES;
    ints words = ints_zero();
    for (int64_t c = 0; c < e->layout.channels; ++c) {
      vec z = image_values(x, uint8, c * channel_step + i, n);
      if (e->scale) z = add(mul(z, broadcast(e->scale[c])), broadcast(e->shift[c]));
      words = ints_add(words, ints_shift_left(codes_of(e, z), (int)(8 * c)));
    }
    store_words(codes + 4 * i, words, n);
  }
}
