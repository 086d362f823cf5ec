// Floats as sums of three bfloat16 parts, for conv2d_amx: which convolutions, the order of weights, the scratch.
#pragma once
#include "kernels.h"

// Sizes (bits of the absolute value) up to 2^40 are split. Then no product of parts overflows, and what is lost below
// 2^-126, where tiles take numbers for zero, is less than 1e-25 of a product. PARTS_ROW: values of a tile row.
enum { PARTS = 3, PARTS_LIMIT = 0x53800000, PARTS_ROW = 32 };

static inline int64_t parts_chunks(const Conv2dShape* s) { return (s->kernel_w * s->in_c + PARTS_ROW - 1) / PARTS_ROW; }

// The convolution as tiles see it. Where images have few channels and tile rows would not be full of the taps of one
// kernel row, the input rows of an output row are merged, [x][ky][c], into one row of an image of more channels.
enum { MERGED_CHANNELS = 4 };
static inline Conv2dShape parts_view(const Conv2dShape* s) {
  Conv2dShape merged = *s;
  merged.in_c = s->kernel_h * s->in_c;
  merged.in_h = s->out_h;
  merged.kernel_h = merged.stride_h = merged.dilation_h = 1;
  merged.pad_h = 0;
  const int fewer = s->in_c <= MERGED_CHANNELS && parts_chunks(&merged) < s->kernel_h * parts_chunks(s);
  return fewer ? merged : *s;
}
static inline int parts_merged(const Conv2dShape* s) { return parts_view(s).in_c != s->in_c; }

// Single taps: only pixels that are read are split, and those of several rows lie side by side.
static inline int parts_flat(const Conv2dShape* s) {
  return s->kernel_h * s->kernel_w == 1 && s->pad_h + s->pad_w == 0 && s->in_c % PARTS_ROW == 0;
}

// Where tiles were measured faster than conv2d_avx512 (1.3 to 1.9 times): rows of at least ten pixels (below, a product
// waits for the one before it: 0.6 at eight), well filled with products, enough of them per output to pay for the
// splitting (0.7 at 64, 1.3 from 144). Flat ones: 0.98 at 64 to 64 channels, 1.1 to 1.4 with more on either side, 0.8
// at sixteen pixels.
static inline int parts_serve(const Conv2dShape* s) {
  const Conv2dShape view = parts_view(s);
  const int64_t run = view.kernel_w * view.in_c, filled = parts_chunks(&view) * PARTS_ROW;
  if (parts_flat(s)) return s->groups == 1 && s->in_c >= 64 && s->out_c >= 64 && s->out_h * s->out_w >= 32;
  return s->groups == 1 && s->dilation_w == 1 && s->out_h >= 2 && s->out_w >= 10 && s->out_c >= BLOCK &&
         4 * run >= 3 * filled && view.kernel_h * run >= 144;
}

// Packed weights: blocks of 32 output channels, the last perhaps of 16, as of conv2d; within a block
// [kernel_h][chunk][part][16 channels each][pair of values][channel][2].
static inline int64_t parts_count(const Conv2dShape* s) {
  const Conv2dShape view = parts_view(s);
  return padded_channels(s->out_c) * view.kernel_h * parts_chunks(&view) * PARTS * PARTS_ROW;
}
// Of the weight that column k, [kx][c], of kernel row ky has.
static inline int64_t part_position(const Conv2dShape* s, int64_t block, int64_t ky, int64_t k, int64_t lane,
                                    int part) {
  const Conv2dShape view = parts_view(s);
  if (view.in_c != s->in_c) {
    k = (k / s->in_c * s->kernel_h + ky) * s->in_c + k % s->in_c;
    ky = 0;
  }
  const int64_t row = parts_chunks(&view), chunks = view.kernel_h * row, chunk = ky * row + k / PARTS_ROW;
  const int64_t tile = 16 * PARTS_ROW;
  const int64_t tiles = block_width(s->out_c, block) / 16, place = k % PARTS_ROW;
  return 2 * block * chunks * PARTS * tile + ((chunk * PARTS + part) * tiles + lane / 16) * tile + place / 2 * 32 +
         lane % 16 * 2 + place % 2;
}

// A row of one part of all padded pixels, and zeros for what the last chunk reads past them; of just the pixels that
// are read, if flat.
static inline int64_t parts_plane(const Conv2dShape* s) {
  return parts_flat(s) ? 2 * s->out_w * s->in_c : (2 * conv2d_padded_row(s) + 64 + 63) / 64 * 64;
}

// Output rows whose inputs are merged at a time: enough for pairs of tiles.
enum { MERGED_ROWS = 4 };

// Positions in the scratch. The float weights and padded rows are for inputs that cannot be split, else untouched;
// `inputs` and `merged` are for rows that are merged.
typedef struct {
  int64_t sums, regular, rows, inputs, merged, padded, weights, end;
} PartsScratch;
static inline PartsScratch parts_scratch(const Conv2dShape* s, int64_t rows) {
  const Conv2dShape view = parts_view(s);
  const int merged = parts_merged(s);
  const int64_t read = parts_flat(s) ? rows : conv2d_input_rows(s, rows);
  const int64_t inputs = merged ? (int64_t)MERGED_ROWS : read, floats = sizeof(float);
  PartsScratch r;
  r.sums = 0;
  r.regular = 4 * 16 * BLOCK * floats;
  r.rows = r.regular + (inputs + 63) / 64 * 64;
  r.inputs = r.rows + inputs * PARTS * parts_plane(&view);
  r.merged = r.inputs + (merged ? conv2d_scratch(s, rows) + 63 : 0) / 64 * 64;
  r.padded = r.merged + (merged ? 2 * parts_plane(&view) : 0);
  r.weights = r.padded + (conv2d_scratch(s, rows) + 63) / 64 * 64;
  r.end = r.weights + padded_channels(s->out_c) * s->kernel_h * s->kernel_w * s->in_c * floats;
  return r;
}
