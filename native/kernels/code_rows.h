// Writing codes outside the inner loops: margins, and one code at a time.
#pragma once
#include <string.h>

#include "codes.h"

// Zeroes what rows [row0, row1) of an image have beside the codes: margins left and right, above the first and below
// the last row, the end of the image; if `inner`, also the codes.
static inline void clear_rows(const CodeLayout* l, uint8_t* image, int64_t row0, int64_t row1, int inner) {
  const int64_t unit = l->planes ? 4 : 1, pixel = unit * code_pixel_units(l), row = pixel * code_columns(l);
  const int64_t planes = l->planes ? l->planes : 1, plane = row * code_rows(l);
  for (int64_t n = 0; n < planes; ++n) {
    uint8_t* first = image + n * plane + l->top * row;
    if (row0 == 0) memset(first - l->top * row, 0, l->top * row);
    if (row1 == l->height) memset(first + row1 * row, 0, l->bottom * row);
    for (int64_t y = row0; y < row1; ++y) {
      memset(first + y * row, 0, inner ? row : l->left * pixel);
      memset(first + (y + 1) * row - l->right * pixel, 0, l->right * pixel);
    }
  }
  if (row1 == l->height) memset(image + planes * plane, 0, code_image_bytes(l) - planes * plane);
}

// Stores the codes of n neighbouring channels of a pixel, counted in units from the image's first; their bits must be
// zero. Looks for the group once: a division for every code takes longer than the layer.
static inline void put_codes(const CodeLayout* l, uint8_t* image, int64_t pixel, int64_t channel, const int32_t* codes,
                             int64_t n) {
  const int64_t channels = l->channels / l->groups, units = code_group_units(l);
  int64_t unit = pixel + channel / channels * units, i = channel % channels;
  for (const int32_t* code = codes; code < codes + n; ++code) {
    if (l->planes) {
      for (int64_t p = 0; p < l->planes; ++p)
        ((uint32_t*)image)[p * code_plane_units(l) + unit + i / 32] |= ((uint32_t)*code >> p & 1) << i % 32;
    } else {
      image[unit + i] = (uint8_t)*code;
    }
    if (++i < channels) continue;
    i = 0;
    unit += units;
  }
}

static inline void put_code(const CodeLayout* l, uint8_t* image, int64_t pixel, int64_t channel, uint32_t code) {
  const int32_t one = (int32_t)code;
  put_codes(l, image, pixel, channel, &one, 1);
}

// Units from the image's first to this pixel.
static inline int64_t code_pixel(const CodeLayout* l, int64_t y, int64_t x) {
  return ((l->top + y) * code_columns(l) + l->left + x) * code_pixel_units(l);
}
