// The end of exact sums, a vector of channels at a time: the same operations as in sums_ref.h and encode_value, each
// rounded by itself. Include vec_<isa>.h and sums_<isa>.h first.
#pragma once
#include <string.h>

#include "bytes.h"
#include "code_rows.h"

// Where the outputs of a pixel go.
typedef struct {
  const int32_t* start;  // of the first sum of the block
  int64_t position;      // of the pixel's first channel in the float output
  uint8_t* image;        // of the codes
  int64_t unit;          // of the pixel in it
} PixelEnd;

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

// Vector v of a block: its sums are sums[pixel][SUM_LANES] from lane v * LANES on; `channel` is its first, `lanes` are left.
static inline void finish_vector(const SumEpilogue* e, int storage, int32_t step, int two, const int32_t* sums, int64_t v,
                                 int64_t channel, int64_t lanes, const PixelEnd* ends, int64_t pixels) {
  const Epilogue* rest = &e->rest;
  const Encode* encode = &e->encode;
  const vec multiplier = load_or(e->multiplier, channel, lanes), negative = load_or(e->negative, channel, lanes);
  const vec bias = load_or(rest->bias, channel, lanes);
  const vec scale = load_or(rest->scale, channel, lanes), shift = load_or(rest->shift, channel, lanes);
  const vec code_scale = load_or(encode->scale, channel, lanes), code_shift = load_or(encode->shift, channel, lanes);
  const vec reciprocal = broadcast(encode->reciprocal), low = broadcast(encode->low), high = broadcast(encode->high);
  const ints lowest = ints_all((int32_t)encode->low), steps = ints_all(step);
  for (int64_t i = 0; i < pixels; ++i) {
    const int32_t* sum = sums + i * SUM_LANES + v * LANES;
    const int32_t* start = ends[i].start + v * LANES;
    ints exact = ints_load(sum);
    if (step != 1) exact = ints_mul(exact, steps);
    vec y = to_float(ints_add(exact, ints_load(start)));
    if (e->multiplier) y = mul(y, multiplier);
    if (two) {
      exact = ints_mul(ints_load(sum + HALF_LANES), steps);
      y = minus(y, mul(to_float(ints_add(exact, ints_load(start + HALF_LANES))), negative));
    }
    if (rest->bias) y = add(y, bias);
    if (rest->scale) y = add(mul(y, scale), shift);
    if (rest->residual) y = add(y, load_first(rest->residual + ends[i].position + channel, lanes));
    if (rest->relu) y = maximum(zero(), y);
    if (e->out) store_first(e->out + ends[i].position + channel, y, lanes);
    if (storage == STORE_NONE) continue;
    if (encode->scale) y = add(mul(y, code_scale), code_shift);
    const ints codes = encode->kind == ENCODE_SIGN ? not_negative(y) : ints_sub(round_between(mul(y, reciprocal), low, high), lowest);
    store_codes(encode, storage, ends + i, codes, channel, lanes);
  }
}
