// The end of exact sums, a vector of channels at a time: the same operations as in sums_ref.h and encode_value, each
// rounded by itself. Include vec_<isa>.h and sums_<isa>.h first.
#pragma once
#include <string.h>

#include "bytes.h"
#include "code_rows.h"

// A pixel of a block: its sums and where its outputs go.
typedef struct {
  const int32_t *sums, *start;  // of the block's first lane
  int64_t position;             // of the pixel's first channel in the float output
  uint8_t* image;               // of the codes
  int64_t unit;                 // of the pixel in it
} PixelEnd;

// `lane`: the block's first of all groups.
static inline PixelEnd pixel_end(const ByteConv* c, const SumEpilogue* e, int64_t lane, const int32_t* sums, int64_t image,
                                 int64_t y, int64_t x) {
  const CodeLayout* l = &e->encode.layout;
  const int64_t lanes = byte_groups(c) * byte_group_lanes(c);
  PixelEnd p = {sums, c->start + (c->row_class[y] * c->column_classes + c->column_class[x]) * lanes + lane,
                ((image * c->shape.out_h + y) * c->shape.out_w + x) * c->shape.out_c, 0, 0};
  if (e->encode.kind != ENCODE_NONE) {
    p.image = (uint8_t*)e->codes + image * code_image_bytes(l);
    p.unit = code_pixel(l, y, x);
  }
  return p;
}

// The task of the first channels writes what is around the codes.
static inline void clear_margins(const SumEpilogue* e, int storage, const ByteTask* task) {
  if (storage == STORE_NONE || task->block0 != 0) return;
  const CodeLayout* l = &e->encode.layout;
  for (int64_t n = task->image0; n < task->image1; ++n)
    clear_rows(l, (uint8_t*)e->codes + n * code_image_bytes(l), task->row0, task->row1, storage == STORE_SCATTERED);
}

static inline vec load_or(const float* p, int64_t channel, int64_t n) { return p ? load_first(p + channel, n) : zero(); }

static inline void store_codes(const Encode* e, int storage, const PixelEnd* p, ints codes, int64_t channel, int64_t lanes) {
  const CodeLayout* l = &e->layout;
  const int64_t n = lanes < LANES ? lanes : LANES;
  if (lanes < LANES) codes = ints_keep_first(codes, n);
  if (storage == STORE_BYTES) {
    store_bytes(p->image + p->unit + channel, codes, (n + 3) / 4 * 4);
  } else if (storage == STORE_WORDS) {
    store_words(p->image + p->unit + 4 * channel, codes, n);
  } else if (storage == STORE_BITS) {
    for (int plane = 0; plane < l->planes; ++plane) {
      uint8_t* word = p->image + 4 * (plane * code_plane_units(l) + p->unit) + channel / 8;
      store_bits(word, codes, plane);
      // The end of the pixel's last word.
      if (channel + n == l->channels)
        for (int64_t i = LANES / 8; (channel / 8 + i) % 4; ++i) word[i] = 0;
    }
  } else {
    int32_t each[LANES];
    ints_store(each, codes);
    for (int64_t i = 0; i < n; ++i) put_code(l, p->image, p->unit, channel + i, (uint32_t)each[i]);
  }
}

// Vector v of a block; `channel` is its first, `lanes` are left.
static inline void finish_vector(const SumEpilogue* e, int storage, int32_t step, int two, int64_t v, int64_t channel,
                                 int64_t lanes, const PixelEnd* ends, int64_t pixels) {
  const Epilogue rest = e->rest;
  const Encode* encode = &e->encode;
  float* const out = e->out;
  const int scaled = e->multiplier != 0, encode_scaled = encode->scale != 0, sign = encode->kind == ENCODE_SIGN;
  const vec multiplier = load_or(e->multiplier, channel, lanes), negative = load_or(e->negative, channel, lanes);
  const vec bias = load_or(rest.bias, channel, lanes);
  const vec scale = load_or(rest.scale, channel, lanes), shift = load_or(rest.shift, channel, lanes);
  const vec code_scale = load_or(encode->scale, channel, lanes), code_shift = load_or(encode->shift, channel, lanes);
  const vec reciprocal = broadcast(encode->reciprocal), low = broadcast(encode->low), high = broadcast(encode->high);
  const ints lowest = ints_all((int32_t)encode->low), steps = ints_all(step);
  for (int64_t i = 0; i < pixels; ++i) {
    const int32_t* sum = ends[i].sums + v * LANES;
    const int32_t* start = ends[i].start + v * LANES;
    ints exact = ints_load(sum);
    if (step != 1) exact = ints_mul(exact, steps);
    vec y = to_float(ints_add(exact, ints_load(start)));
    if (scaled) y = mul(y, multiplier);
    if (two) {
      exact = ints_mul(ints_load(sum + HALF_LANES), steps);
      y = minus(y, mul(to_float(ints_add(exact, ints_load(start + HALF_LANES))), negative));
    }
    if (rest.bias) y = add(y, bias);
    if (rest.scale) y = add(mul(y, scale), shift);
    if (rest.residual) y = add(y, load_first(rest.residual + ends[i].position + channel, lanes));
    if (rest.relu) y = maximum(zero(), y);
    if (out) store_first(out + ends[i].position + channel, y, lanes);
    if (storage == STORE_NONE) continue;
    if (encode_scaled) y = add(mul(y, code_scale), code_shift);
    const ints codes = sign ? not_negative(y) : ints_sub(round_between(mul(y, reciprocal), low, high), lowest);
    store_codes(encode, storage, ends + i, codes, channel, lanes);
  }
}

// All channels of a block, counted through all groups.
static inline void finish_block(const ByteConv* c, const SumEpilogue* e, int storage, int64_t block, const PixelEnd* ends,
                                int64_t pixels) {
  const int64_t group = block / byte_group_blocks(c), begin = block % byte_group_blocks(c) * byte_block_channels(c);
  const int64_t channels = byte_group_channels(c);
  for (int64_t v = 0; v * LANES < byte_block_channels(c) && begin + v * LANES < channels; ++v)
    finish_vector(e, storage, c->step, c->two, v, group * channels + begin + v * LANES, channels - begin - v * LANES, ends,
                  pixels);
}
