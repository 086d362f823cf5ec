// Floats to codes, a word of bits at a time. Include vec_<isa>.h, sums_<isa>.h and lane_bits_<isa>.h first.
#pragma once
#include <string.h>

#include "bits.h"

enum { WORD_VECTORS = 32 / LANES };

static inline ints codes_of(const Encode* e, vec z) {
  if (e->kind == ENCODE_SIGN) return not_negative(z);
  const vec m = mul(z, broadcast(e->reciprocal));
  return ints_sub(round_between(m, broadcast(e->low), broadcast(e->high)), ints_all((int32_t)e->low));
}

// The codes of the first n channels from `channel` on; the others are 0.
static inline ints code_vector(const Encode* e, const float* x, int64_t channel, int64_t n) {
  vec z = load_first(x, n);
  if (e->scale) z = add(mul(z, load_first(e->scale + channel, n)), load_first(e->shift + channel, n));
  const ints codes = codes_of(e, z);
  return n < LANES ? ints_keep_first(codes, n) : codes;
}

static inline uint32_t sign_word(const Encode* e, const float* x, int64_t channel, int64_t n) {
  uint32_t word = 0;
  for (int v = 0; v < WORD_VECTORS; ++v) {
    const int64_t left = n - v * LANES;
    if (left <= 0) break;
    vec z = load_first(x + v * LANES, left);
    if (e->scale) {
      const int64_t c = channel + v * LANES;
      z = add(mul(z, load_first(e->scale + c, left)), load_first(e->shift + c, left));
    }
    word |= lanes_not_negative(z) << v * LANES;
  }
  return n < 32 ? word & ((1u << n) - 1) : word;
}

static inline void encode_words(const Encode* e, const float* x, int64_t channel, int64_t n, uint32_t* out) {
  const int64_t planes = e->layout.planes, plane = code_plane_units(&e->layout);
  if (e->kind == ENCODE_SIGN && planes == 1) {
    *out = sign_word(e, x, channel, n);
    return;
  }
  uint32_t words[8] = {0};
  for (int v = 0; v < WORD_VECTORS && v * LANES < n; ++v) {
    const ints codes = code_vector(e, x + v * LANES, channel + v * LANES, n - v * LANES);
    for (int p = 0; p < planes; ++p) words[p] |= lanes_set(codes, p) << v * LANES;
  }
  for (int p = 0; p < planes; ++p) out[p * plane] = words[p];
}

static inline void encode_bytes(const Encode* e, const float* x, int64_t channel, int64_t n, uint8_t* out) {
  int64_t i = 0;
  if (e->kind == ENCODE_SIGN && !e->scale)
    for (; i + LANES <= n; i += LANES) store_not_negative(out + i, load(x + i));
  for (; i < n; i += LANES) {
    const int64_t left = n - i < LANES ? n - i : LANES;
    store_bytes(out + i, code_vector(e, x + i, channel + i, left), (left + 3) / 4 * 4);
  }
}

static inline void encode_row(ENCODE_ARGUMENTS) {
  const CodeLayout* l = &e->layout;
  int64_t groups = l->groups, channels = l->channels / groups, units = code_group_units(l);
  // Where nothing depends on the channel and no gaps are between codes, a row is one long group.
  if (!e->scale && channels == (l->planes ? 32 : 1) * units) {
    channels *= groups * pixels;
    units *= groups * pixels;
    groups = pixels = 1;
  }
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t g = 0; g < groups; ++g, x += channels, codes += l->planes ? 4 * units : units) {
      if (!l->planes) {
        encode_bytes(e, x, g * channels, channels, codes);
        continue;
      }
      uint32_t* words = (uint32_t*)codes;
      for (int64_t w = 0; w < units; ++w) {
        const int64_t left = channels - 32 * w;
        encode_words(e, x + 32 * w, g * channels + 32 * w, left < 32 ? left : 32, words + w);
      }
    }
}
