// The end of exact sums, a vector of channels at a time: the same operations as in sums_ref.h and encode_value, each
// rounded by itself. Include vec_<isa>.h and sums_<isa>.h first.
#pragma once
#include <string.h>

#include "bytes.h"
#include "code_rows.h"

// Pixels side by side in a row of the output, or the only pixels of consecutive images, in one block: where the sums
// are and where the outputs go.
typedef struct {
  int64_t count;
  const int32_t* sums;          // [count][SUM_LANES]
  const int32_t* start;         // of the first class of columns
  const int32_t* column_class;  // of the first pixel, the others follow; null: all are of the first
  int64_t position, step;       // of the pixel's first channel in the float output, from pixel to pixel
  uint8_t* codes;
  int64_t code_step;
} PixelRun;

// Sets all but the count and the sums. `lane`: the block's first of all groups.
static inline void locate(PixelRun* r, const ByteConv* c, const SumEpilogue* e, int across, int64_t lane, int64_t image,
                          int64_t y, int64_t x) {
  const CodeLayout* l = &e->encode.layout;
  const int64_t lanes = byte_groups(c) * byte_group_lanes(c), unit = l->planes ? 4 : 1;
  r->start = c->start + c->row_class[y] * c->column_classes * lanes + lane;
  r->column_class = across ? 0 : c->column_class + x;
  r->position = ((image * c->shape.out_h + y) * c->shape.out_w + x) * c->shape.out_c;
  r->step = c->shape.out_c;
  r->codes = 0;
  r->code_step = 0;
  if (e->encode.kind == ENCODE_NONE) return;
  r->codes = (uint8_t*)e->codes + image * code_image_bytes(l) + unit * code_pixel(l, y, x);
  r->code_step = across ? code_image_bytes(l) : unit * code_pixel_units(l);
}

// The task of the first channels writes what is around the codes.
static inline void clear_margins(const SumEpilogue* e, int storage, const ByteTask* task) {
  if (storage == STORE_NONE || task->block0 != 0) return;
  const CodeLayout* l = &e->encode.layout;
  for (int64_t n = task->image0; n < task->image1; ++n)
    clear_rows(l, (uint8_t*)e->codes + n * code_image_bytes(l), task->row0, task->row1, storage == STORE_SCATTERED);
}

static inline vec load_or(const float* p, int64_t channel, int64_t n) {
  return p ? load_first(p + channel, n) : zero();
}

// The n codes from `channel` on.
static inline void store_codes(const CodeLayout* l, int storage, uint8_t* pixel, ints codes, int64_t channel,
                               int64_t n) {
  if (n < LANES) codes = ints_keep_first(codes, n);
  if (storage == STORE_BYTES) {
    store_bytes(pixel + channel, codes, (n + 3) / 4 * 4);
  } else if (storage == STORE_WORDS) {
    store_words(pixel + 4 * channel, codes, n);
  } else if (storage == STORE_BITS) {
    for (int plane = 0; plane < l->planes; ++plane) {
      uint8_t* bits = pixel + 4 * plane * code_plane_units(l) + channel / 8;
      store_bits(bits, codes, plane);
      // The end of the pixel's last word.
      if (channel + n == l->channels)
        for (int64_t i = LANES / 8; (channel / 8 + i) % 4; ++i) bits[i] = 0;
    }
  } else {
    int32_t each[LANES];
    ints_store(each, codes);
    for (int64_t i = 0; i < n; ++i) put_code(l, pixel, 0, channel + i, (uint32_t)each[i]);
  }
}

// What most layers want, known when the loop is compiled: bytes by a multiplier, whole vectors of them, nothing else.
static inline int only_bytes(const SumEpilogue* e, int storage, int32_t step, int64_t n) {
  return storage == STORE_BYTES && n == LANES && e->multiplier && !e->negative && !e->rest.scale &&
         !e->rest.residual && !e->out && !e->encode.scale && e->encode.kind == ENCODE_QUANTIZE && step == 1;
}

// Signs as bytes, where thresholds tell them: VECTORS vectors of a block from the v-th on; `channel` is their first.
template <int VECTORS>
static inline void finish_signs(const ByteConv* c, const SumEpilogue* e, int64_t v, int64_t channel,
                                const PixelRun* run) {
  const int64_t lanes = byte_groups(c) * byte_group_lanes(c), count = run->count, code_step = run->code_step;
  const int32_t *sums = run->sums + v * LANES, *starts = run->start + v * LANES, *column_class = run->column_class;
  const int twice = c->step == 2;
  ints at[VECTORS], flip[VECTORS];
#pragma GCC unroll 4
  for (int k = 0; k < VECTORS; ++k) {
    at[k] = ints_load(e->threshold + channel + k * LANES);
    flip[k] = ints_load(e->flip + channel + k * LANES);
  }
  uint8_t* pixel = run->codes + channel;
  for (int64_t i = 0; i < count; ++i, sums += SUM_LANES, pixel += code_step) {
    const int32_t* start = column_class ? starts + column_class[i] * lanes : starts;
#pragma GCC unroll 4
    for (int k = 0; k < VECTORS; ++k) {
      const ints sum = ints_load(sums + k * LANES), scaled = twice ? ints_add(sum, sum) : sum;
      const ints exact = ints_add(scaled, ints_load(start + k * LANES));
      store_signs(pixel + k * LANES, exact, at[k], flip[k]);
    }
  }
}

// Vector v of a block, of which n lanes count; `channel` is the first. WHOLE: all of them, and codes are bytes or none.
template <bool ONLY_BYTES, bool WHOLE>
static inline void finish_vector(const ByteConv* c, const SumEpilogue* e, int storage, int64_t v, int64_t channel,
                                 int64_t lanes_used, const PixelRun* run) {
  const int64_t n = WHOLE ? LANES : lanes_used;
  const Epilogue rest = e->rest;
  const Encode* encode = &e->encode;
  const CodeLayout* layout = &encode->layout;
  float* const out = e->out;
  const bool two = e->negative != 0, scaled = e->multiplier != 0, encode_scaled = encode->scale != 0;
  const bool sign = encode->kind == ENCODE_SIGN, stepped = c->step == 2;
  const vec multiplier = load_or(e->multiplier, channel, n), negative = load_or(e->negative, channel, n);
  const vec bias = load_or(rest.bias, channel, n);
  const vec scale = load_or(rest.scale, channel, n), shift = load_or(rest.shift, channel, n);
  const vec code_scale = load_or(encode->scale, channel, n), code_shift = load_or(encode->shift, channel, n);
  const vec reciprocal = broadcast(encode->reciprocal), low = broadcast(encode->low), high = broadcast(encode->high);
  const ints lowest = ints_all((int32_t)encode->low);
  const int64_t lanes = byte_groups(c) * byte_group_lanes(c), count = run->count;
  const int32_t *sums = run->sums + v * LANES, *starts = run->start + v * LANES, *column_class = run->column_class;
  uint8_t* pixel = run->codes;
  int64_t position = run->position + channel;
  for (int64_t i = 0; i < count; ++i, sums += SUM_LANES, position += run->step, pixel += run->code_step) {
    const int32_t* start = column_class ? starts + column_class[i] * lanes : starts;
    ints exact = ints_load(sums);
    if (!ONLY_BYTES && stepped) exact = ints_add(exact, exact);
    vec y = to_float(ints_add(exact, ints_load(start)));
    if (ONLY_BYTES || scaled) y = mul(y, multiplier);
    if (!ONLY_BYTES && two) {
      exact = ints_load(sums + HALF_LANES);
      if (stepped) exact = ints_add(exact, exact);
      y = minus(y, mul(to_float(ints_add(exact, ints_load(start + HALF_LANES))), negative));
    }
    if (rest.bias) y = add(y, bias);
    if (!ONLY_BYTES) {
      if (rest.scale) y = add(mul(y, scale), shift);
      if (rest.residual) y = add(y, WHOLE ? load(rest.residual + position) : load_first(rest.residual + position, n));
    }
    if (rest.relu) y = maximum(zero(), y);
    if (ONLY_BYTES) {
      const ints codes = ints_sub(round_between(mul(y, reciprocal), low, high), lowest);
      store_codes(layout, STORE_BYTES, pixel, codes, channel, LANES);
      continue;
    }
    if (out) WHOLE ? store(out + position, y) : store_first(out + position, y, n);
    if (storage == STORE_NONE) continue;
    if (encode_scaled) y = add(mul(y, code_scale), code_shift);
    if (WHOLE && sign) {
      store_not_negative(pixel + channel, y);
      continue;
    }
    const ints codes = sign ? not_negative(y) : ints_sub(round_between(mul(y, reciprocal), low, high), lowest);
    store_codes(layout, WHOLE ? (int)STORE_BYTES : storage, pixel, codes, channel, n);
  }
}

// All channels of a block, counted through all groups.
static inline void finish_block(const ByteConv* c, const SumEpilogue* e, int storage, int64_t block,
                                const PixelRun* runs, int64_t count) {
  const int64_t group = block / byte_group_blocks(c), begin = block % byte_group_blocks(c) * byte_block_channels(c);
  const int64_t channels = byte_group_channels(c);
  if (e->threshold && storage == STORE_BYTES && channels - begin >= (int64_t)SUM_LANES) {
    for (int64_t i = 0; i < count; ++i)
      finish_signs<SUM_LANES / LANES>(c, e, 0, group * channels + begin, runs + i);
    return;
  }
  for (int64_t v = 0; v * LANES < byte_block_channels(c) && begin + v * LANES < channels; ++v) {
    const int64_t left = channels - begin - v * LANES, n = left < LANES ? left : LANES;
    const int64_t channel = group * channels + begin + v * LANES;
    const int simple = only_bytes(e, storage, c->step, n);
    const int whole = n == LANES && (storage == STORE_NONE || storage == STORE_BYTES);
    for (int64_t i = 0; i < count; ++i)
      if (whole && e->threshold && storage == STORE_BYTES)
        finish_signs<1>(c, e, v, channel, runs + i);
      else if (simple)
        finish_vector<true, true>(c, e, storage, v, channel, n, runs + i);
      else if (whole)
        finish_vector<false, true>(c, e, storage, v, channel, n, runs + i);
      else
        finish_vector<false, false>(c, e, storage, v, channel, n, runs + i);
  }
}
