// What the integer kernels share: how coded activations lie in memory, what becomes of an exact sum, and the normative
// scalar form of both. C headers only, as kernels.h.
//
// A coded activation is one of the numbers m = low + step * u, u an unsigned code: a sign is u in {0, 1} with low -1,
// step 2; a quantised value divided by its scale has step 1. Sums of products of such m with integer weights are exact
// (int32).
#pragma once
#include <math.h>
#include <stdint.h>

#include "kernels.h"

// Bytes after the last image of every buffer, and before the first of none, that may be read.
enum { BUFFER_SLACK = 64 };

// One image. planes > 0: bit n of every code in plane n, as uint32 words [planes][rows][columns][words]; bit i of a
// word is channel 32 * word + i of its group, each group begins with a new word, unused bits are 0. planes == 0: one
// byte per code, [rows][columns][bytes], each group rounded up to 4 channels, unused bytes 0. rows = top + height +
// bottom, columns = left + width + right: the margins hold code 0, for convolutions that look beyond the image. Whoever
// writes an image writes its margins and unused bits too. Images are 64-byte aligned.
typedef struct {
  int64_t height, width, channels, groups;
  int64_t top, left, bottom, right;
  int64_t planes;
} CodeLayout;

static inline int64_t code_rows(const CodeLayout* l) { return l->top + l->height + l->bottom; }
static inline int64_t code_columns(const CodeLayout* l) { return l->left + l->width + l->right; }
// Units (words or bytes) of one pixel: of one group, of all.
static inline int64_t code_group_units(const CodeLayout* l) {
  const int64_t channels = l->channels / l->groups;
  return l->planes ? (channels + 31) / 32 : (channels + 3) / 4 * 4;
}
static inline int64_t code_pixel_units(const CodeLayout* l) { return l->groups * code_group_units(l); }
static inline int64_t code_plane_units(const CodeLayout* l) {
  return code_rows(l) * code_columns(l) * code_pixel_units(l);
}
static inline int64_t code_image_bytes(const CodeLayout* l) {
  const int64_t bytes = l->planes ? 4 * l->planes * code_plane_units(l) : code_plane_units(l);
  return (bytes + 63) / 64 * 64;
}

// How a float becomes a code, FORMAT.md 8: z = y * scale + shift (left out where scale is null), then for ENCODE_SIGN
// u = z >= 0, for ENCODE_QUANTIZE m = clamp(round_half_even(z * reciprocal), low, high) and u = m - low. NaN gives
// u = 0. Every operation rounds to float32 by itself.
enum { ENCODE_NONE, ENCODE_SIGN, ENCODE_QUANTIZE };
typedef struct {
  int kind;
  const float* scale;  // [C]
  const float* shift;  // [C], set exactly when scale is
  float reciprocal, low, high;
  CodeLayout layout;
} Encode;

static inline uint32_t encode_value(const Encode* e, float y, int64_t channel) {
  if (e->scale) {
    y *= e->scale[channel];
    y += e->shift[channel];
  }
  if (e->kind == ENCODE_SIGN) return y >= 0;
  const float m = rintf(y * e->reciprocal);
  if (!(m > e->low)) return 0;
  return (uint32_t)((m < e->high ? m : e->high) - e->low);
}

// What becomes of the exact sum of an output: y = (float)sum * multiplier[o]; where `negative` is set (ternary weights
// of two magnitudes) y = (float)sum_of_P * multiplier[o] - (float)sum_of_N * negative[o]; then `rest` as for float
// kernels; then `prelu`; then, where `limited` is set, y between low and high, where NaN stays; then y is stored in
// `out` and, encoded, in `codes`, each unless null.
typedef struct {
  const float* multiplier;  // [O]
  const float* negative;    // [O] or null
  Epilogue rest;
  Prelu prelu;
  int limited;
  float low, high;
  float* out;               // NHWC or null
  Encode encode;
  void* codes;
} SumEpilogue;
