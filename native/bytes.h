// Convolutions of byte codes with int8 weights: the problem, how its weights are packed, the declaration of every
// variant. C headers only, as kernels.h.
//
// The exact sum of an output is start[border class] + step * (sum of code * weight); what becomes of it is in codes.h.
// A linear layer is a convolution of images of one pixel; where there is one output pixel, tiles go across the batch.
#pragma once
#include "codes.h"

// Lanes of a block: sums that are computed side by side. They belong to as many output channels, or, where weights are
// ternary of two magnitudes, to half as many: 16 sums over the weights +1, then the 16 sums over the weights -1 of
// the same.
enum { SUM_LANES = 32, HALF_LANES = 16 };

typedef struct {
  Conv2dShape shape;  // of one image
  CodeLayout x;
  int32_t low, step, padding;  // a code u is the number low + step * u, outside the image is `padding`
  int32_t largest;             // code
  int two;                     // two sums per channel
  int depthwise;               // one input and one output channel per group; not with two sums
  const void* weights;         // as packed for the variant; for the reference int8 [O][C / groups][kernel_h][kernel_w]
  int bits;                    // of a packed weight of a linear layer, or 0: words as below
  // Borders, borders.h; lanes of all groups.
  const int32_t *row_class, *column_class, *start;
  int64_t column_classes;
  // Where a sign is all that is wanted and this is set, its code is (sum of code * weight >= limit[as start]) !=
  // flip[o], which gives the same bit.
  const int32_t* limit;
  const int32_t* flip;  // [O] 0 or 1
} ByteConv;

// Blocks are counted through all groups; depthwise weights are blocks of 32 groups.
static inline int64_t byte_groups(const ByteConv* c) { return c->depthwise ? 1 : c->shape.groups; }
static inline int64_t byte_group_channels(const ByteConv* c) { return c->shape.out_c / byte_groups(c); }
static inline int64_t byte_block_channels(const ByteConv* c) { return c->two ? HALF_LANES : SUM_LANES; }
static inline int64_t byte_group_blocks(const ByteConv* c) {
  return (byte_group_channels(c) + byte_block_channels(c) - 1) / byte_block_channels(c);
}
// The last block of a group is 16 lanes wide if at most 16 are left.
static inline int64_t byte_group_lanes(const ByteConv* c) {
  const int64_t lanes = (byte_group_channels(c) + HALF_LANES - 1) / HALF_LANES * HALF_LANES;
  return c->two ? 2 * lanes : lanes;
}
static inline int64_t byte_block_lanes(const ByteConv* c, int64_t block_of_group) {
  const int64_t left = byte_group_lanes(c) - block_of_group * SUM_LANES;
  return left < (int64_t)SUM_LANES ? left : (int64_t)SUM_LANES;
}

// Packed weights, per group and block: [kernel_h][segments][words][lanes], each word the weights of one lane for
// consecutive codes of a segment: four int8 or two int16. Lanes, channels and codes without a weight have 0; for AMX
// the words of a segment are filled up to 16.
// Depthwise: [kernel_h][kernel_w][lanes], one int16 in each word.
// Taps side by side in memory are one long segment: what makes images of 3 channels fast.
static inline int byte_merged(const ByteConv* c) {
  return !c->depthwise && (c->shape.kernel_w == 1 || (c->shape.dilation_w == 1 && c->shape.groups == 1));
}
static inline int64_t byte_segments(const ByteConv* c) { return byte_merged(c) ? 1 : c->shape.kernel_w; }
static inline int64_t byte_segment_codes(const ByteConv* c) {
  return (byte_merged(c) ? c->shape.kernel_w : 1) * code_group_units(&c->x);
}

// Memory decides how fast a linear layer is that sees few inputs at a time, so its weights may be packed more tightly:
// in the same order, 2, 4 or 8 bits each plus half their range, 64 bytes at a time for 512 / bits weights: weight i of
// these is in byte i % 64, from bit i / 64 * bits on. Each block begins with a new 64 bytes.
static inline int64_t packed_bytes(int bits, int64_t weights) { return (weights * bits + 511) / 512 * 64; }
// Words of a block that are expanded at a time.
enum { PACKED_WORDS = 128 };

// Output rows [row0, row1) of the images [image0, image1) and the channels of blocks [block0, block1). More than one
// image only where there is one output pixel.
typedef struct {
  int64_t image0, image1, row0, row1, block0, block1;
} ByteTask;

// Input rows that the rows of a task need.
static inline int64_t byte_input_rows(const ByteConv* c, int64_t rows) {
  return (rows - 1) * c->shape.stride_h + (c->shape.kernel_h - 1) * c->shape.dilation_h + 1;
}

// How codes are stored: not at all; channels side by side as bytes or as bits; one in each four bytes (of a depthwise
// layer); one by one, by tasks that have all channels of their pixels.
enum { STORE_NONE, STORE_BYTES, STORE_BITS, STORE_WORDS, STORE_SCATTERED };
static inline int byte_code_storage(const ByteConv* c, const Encode* e) {
  if (e->kind == ENCODE_NONE) return STORE_NONE;
  const int64_t channels = byte_group_channels(c), group = e->layout.channels / e->layout.groups;
  const int64_t unit = e->layout.planes ? 32 : 4, aligned = e->layout.planes ? HALF_LANES : 4;
  if ((byte_groups(c) == 1 || channels % aligned == 0) && (e->layout.groups == 1 || group % unit == 0))
    return e->layout.planes ? STORE_BITS : STORE_BYTES;
  return group == 1 && !e->layout.planes ? STORE_WORDS : STORE_SCATTERED;
}

// x: the first image of all. scratch: byte_scratch bytes for the largest task, 64-byte aligned.
#define BYTES_ARGUMENTS                                                                                           \
  const ByteConv *conv, const SumEpilogue *epilogue, const uint8_t *x, const ByteTask *task, void *scratch
void bytes_ref(BYTES_ARGUMENTS);
void bytes_avx2(BYTES_ARGUMENTS);
void bytes_avx512(BYTES_ARGUMENTS);
void bytes_avx512vnni(BYTES_ARGUMENTS);
// Where no sum of codes times weights, in whatever order it is made, leaves 16 bits.
void bytes16_avx2(BYTES_ARGUMENTS);
void bytes16_avx512(BYTES_ARGUMENTS);
void bytes_amx(BYTES_ARGUMENTS);  // not depthwise

// Images of one output pixel in a task, at most.
enum { BYTE_IMAGES = 64 };
// Then follow copies of input rows, perhaps widened to 16 bits.
typedef struct {
  int32_t sums[BYTE_IMAGES * SUM_LANES];
  uint32_t weights[PACKED_WORDS * SUM_LANES + 256];
} ByteScratch;
static inline int64_t byte_scratch(const ByteConv* c, int64_t images, int64_t rows) {
  const int64_t image = byte_input_rows(c, rows) * code_columns(&c->x) * code_pixel_units(&c->x);
  return (int64_t)sizeof(ByteScratch) + 2 * images * (image + 128);
}

// The steps that these kernels consist of, on registers and L1 alone and with at least eight independent sums (AMX:
// four, its tiles hold no more), `repeats` times; `keep` gets some of what they add up to. Returns the operations of
// one repeat.
#define BYTE_PEAK_ARGUMENTS int64_t repeats, int32_t *keep
int64_t byte_peak_ref(BYTE_PEAK_ARGUMENTS);
int64_t byte_peak_avx2(BYTE_PEAK_ARGUMENTS);
int64_t byte_peak_avx512(BYTE_PEAK_ARGUMENTS);
int64_t byte_peak_avx512vnni(BYTE_PEAK_ARGUMENTS);
int64_t byte_peak_amx(BYTE_PEAK_ARGUMENTS);
