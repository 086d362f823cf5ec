// What the popcount kernels share: sums of products over bit planes, and what becomes of them. C headers only, as
// kernels.h.
//
// Activations are planes of bits (codes.h), sum 2^i q_i; weights are of one of these forms:
//   BITS_XOR       k = sum 2^j s_j, s_j = +-1 stored as a bit (odd symmetric grids, signs first of all)
//   BITS_AND       k = sum c_j t_j, t_j 0 or 1, c_j = +-2^j (two's complement; P and N of ternary weights)
// A pass adds popcount(q_i ^ s_j) or popcount(q_i & t_j) over all taps and words. Passes come in descending
// significance, so that shifting between them (Horner) weighs them in the registers they are summed in.
#pragma once
#include "codes.h"

// Channels per block of packed weights; the last block of a group has as many units as it needs.
enum { BITS_UNIT = 16, BITS_BLOCK = 64, BITS_PASSES = 64, BITS_PIXELS = 32 };
enum { BITS_XOR, BITS_AND };

typedef struct {
  int64_t x;        // words from the first plane of activations to that of this pass
  int64_t weights;  // plane of weights
  int shift;        // before the pass sums are shifted left by this
  int negate;       // and then negated, if set
} BitPass;

typedef struct {
  int form;
  int64_t kernel_h, kernel_w, words;  // words of a group per tap
  int64_t row_step, column_step;      // words between taps
  int64_t passes;
  BitPass pass[BITS_PASSES];
} BitSums;

// sums[pixel][channel] = the passes of s for `pixels` (at most BITS_PIXELS) windows, whose first words are x[pixel],
// and `width` channels (a multiple of BITS_UNIT, at most BITS_BLOCK). `sums` has room for BITS_PIXELS pixels. Weights:
// [plane][kernel_h][kernel_w][words][parts][width], where a variant says into how many parts it wants each word cut; a
// part of 32 bits is an uint32_t, one of 8 bits or less a byte. They may be read BUFFER_SLACK bytes beyond their end.
#define BITS_ARGUMENTS                                                                                               \
  const BitSums *s, const uint32_t *const *x, int64_t pixels, const void *weights, int64_t width, int32_t *sums
void bits_ref(BITS_ARGUMENTS);
void bits_avx2(BITS_ARGUMENTS);
void bits_plain_avx2(BITS_ARGUMENTS);
void bits_avx512(BITS_ARGUMENTS);
void bits_avx512vpopcntdq(BITS_ARGUMENTS);
static inline int64_t bits_steps(const BitSums* s) { return s->kernel_h * s->kernel_w * s->words; }

// The rest, in vectors per lane: lanes are the channels, those of each group of weights rounded up to BITS_UNIT.
// sum = start +- (passes << shift). Where `limit` is set nothing but the bit of a sign is wanted, which is
// (passes < limit) != flip, limits lying where starts lie.
typedef struct {
  SumEpilogue e;  // vectors padded to lanes
  int64_t channels;
  int shift, negate;
  const int32_t* start;     // [classes][lanes]
  const int32_t* negative;  // the same of the second sums, or null
  const int32_t* limit;     // the same, or null
  const uint16_t* flip;     // [lanes / BITS_UNIT] bits, set exactly when limit is
  const int32_t* place;     // [lanes] bit (of planes) or byte of a code within its pixel, or null if no codes are made
  const uint8_t* fill;  // [lanes / BITS_UNIT] bytes to zero after the codes of this unit; null if units straddle words:
                        // then pixels have been zeroed before
} BitFinish;

// `pixels` pixels from the pixel0-th on (counted over all images), lanes [lane, lane + width) being channels
// [channel, channel + count).
typedef struct {
  const int32_t* sums;      // [pixels][BITS_BLOCK]
  const int32_t* negative;  // of N, or null
  const int32_t* classes;   // [pixels] where in start
  uint8_t* const* codes;    // [pixels] of the first plane
  int64_t pixel0, pixels, lane, width, channel, count;
} BitFinishTask;

#define BITS_FINISH_ARGUMENTS const BitFinish *f, const BitFinishTask *t
void bits_finish_ref(BITS_FINISH_ARGUMENTS);
void bits_finish_avx2(BITS_FINISH_ARGUMENTS);
void bits_finish_avx512(BITS_FINISH_ARGUMENTS);

// x: [pixels][channels], one row of an image; codes: its first pixel in the first plane.
#define ENCODE_ARGUMENTS const Encode *e, const float *x, int64_t pixels, uint8_t *codes
void encode_ref(ENCODE_ARGUMENTS);
void encode_avx2(ENCODE_ARGUMENTS);
void encode_avx512(ENCODE_ARGUMENTS);

// One row of an image as callers hand it, channels first: channel c begins `channel_step` elements after c - 1.
// Elements are floats or, if `uint8`, bytes that are divided by 255. The codes are bytes, of at most
// ENCODE_IMAGE_CHANNELS channels in one group. Nothing is read beyond the row.
enum { ENCODE_IMAGE_CHANNELS = 4 };
#define ENCODE_IMAGE_ARGUMENTS \
  const Encode *e, const void *x, int uint8, int64_t channel_step, int64_t pixels, uint8_t *codes
void encode_image_ref(ENCODE_IMAGE_ARGUMENTS);
void encode_image_avx2(ENCODE_IMAGE_ARGUMENTS);
void encode_image_avx512(ENCODE_IMAGE_ARGUMENTS);

// x, out: one image each, of the same channels, groups and planes; codes outside the image of x don't count.
void pool_codes_portable(const Conv2dShape* s, const CodeLayout* x, const CodeLayout* out, const void* image,
                         void* result);

// The steps that popcount kernels consist of, on registers and L1 alone and with at least eight independent sums,
// `repeats` times; `keep` gets what they add up to. Returns the operations of one repeat: two per pair of bits.
#define POPCOUNT_PEAK_ARGUMENTS int64_t repeats, int32_t *keep
int64_t popcount_peak_ref(POPCOUNT_PEAK_ARGUMENTS);
int64_t popcount_peak_avx2(POPCOUNT_PEAK_ARGUMENTS);
int64_t popcount_peak_avx512(POPCOUNT_PEAK_ARGUMENTS);
int64_t popcount_peak_avx512vpopcntdq(POPCOUNT_PEAK_ARGUMENTS);
