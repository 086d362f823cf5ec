// Floats as sums of three bfloat16 parts, for conv2d_amx: which convolutions, the order of weights, the scratch.
#pragma once
#include "kernels.h"

// Sizes (bits of the absolute value) up to 2^40 are split. Then no product of parts overflows, and what is lost below
// 2^-126, where tiles take numbers for zero, is less than 1e-25 of a product. PARTS_ROW: values of a tile row.
enum { PARTS = 3, PARTS_LIMIT = 0x53800000, PARTS_ROW = 32 };

// Where tiles were measured faster than conv2d_avx512 (1.3 to 1.9 times): rows of at least ten pixels (below, a product
// waits for the one before it: 0.6 at eight), well filled with products, enough of them per output to pay for the
// splitting (0.7 at 64, 1.3 from 144).
static inline int parts_serve(const Conv2dShape* s) {
  const int64_t run = s->kernel_w * s->in_c, filled = (run + PARTS_ROW - 1) / PARTS_ROW * PARTS_ROW;
  return s->groups == 1 && s->dilation_w == 1 && s->out_h >= 2 && s->out_w >= 10 && s->out_c >= BLOCK &&
         4 * run >= 3 * filled && s->kernel_h * run >= 144;
}

// Tile rows for the taps of one kernel row, side by side in memory.
static inline int64_t parts_chunks(const Conv2dShape* s) { return (s->kernel_w * s->in_c + PARTS_ROW - 1) / PARTS_ROW; }

// Packed weights: blocks of 32 output channels, the last perhaps of 16, as of conv2d; within a block
// [kernel_h][chunk][part][16 channels each][pair of values][channel][2].
static inline int64_t parts_count(const Conv2dShape* s) {
  return padded_channels(s->out_c) * s->kernel_h * parts_chunks(s) * PARTS * PARTS_ROW;
}
static inline int64_t part_position(const Conv2dShape* s, int64_t block, int64_t ky, int64_t k, int64_t lane,
                                    int part) {
  const int64_t chunks = s->kernel_h * parts_chunks(s), tile = 16 * PARTS_ROW;
  const int64_t chunk = ky * parts_chunks(s) + k / PARTS_ROW;
  const int64_t tiles = block_width(s->out_c, block) / 16, place = k % PARTS_ROW;
  return 2 * block * chunks * PARTS * tile + ((chunk * PARTS + part) * tiles + lane / 16) * tile + place / 2 * 32 +
         lane % 16 * 2 + place % 2;
}

// A row of one part of all padded pixels, and zeros for what the last chunk reads past them.
static inline int64_t parts_plane(const Conv2dShape* s) { return (2 * conv2d_padded_row(s) + 64 + 63) / 64 * 64; }

// Positions in the scratch. The float weights and padded rows are for inputs that cannot be split, else untouched.
typedef struct {
  int64_t sums, regular, rows, padded, weights, end;
} PartsScratch;
static inline PartsScratch parts_scratch(const Conv2dShape* s, int64_t rows) {
  const int64_t inputs = conv2d_input_rows(s, rows), floats = sizeof(float);
  PartsScratch r;
  r.sums = 0;
  r.regular = 4 * 16 * BLOCK * floats;
  r.rows = r.regular + (inputs + 63) / 64 * 64;
  r.padded = r.rows + inputs * PARTS * parts_plane(s);
  r.weights = r.padded + (conv2d_scratch(s, rows) + 63) / 64 * 64;
  r.end = r.weights + padded_channels(s->out_c) * s->kernel_h * s->kernel_w * s->in_c * floats;
  return r;
}
