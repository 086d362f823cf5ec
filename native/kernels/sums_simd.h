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

// Where the outputs of a task lie: pixels of its first image, or, where images have one, of all of its images.
typedef struct {
  const ByteConv* conv;
  int64_t lanes;                // of all groups
  int64_t position, row, step;  // in the float output: the first pixel, from row to row, from pixel to pixel
  uint8_t* codes;               // of the first pixel, or null
  int64_t code_row, code_step;
  int across;  // images
} Outputs;

static inline Outputs task_outputs(const ByteConv* c, const SumEpilogue* e, const ByteTask* task) {
  const Conv2dShape* s = &c->shape;
  const CodeLayout* l = &e->encode.layout;
  Outputs r = {c, byte_groups(c) * byte_group_lanes(c), task->image0 * s->out_h * s->out_w * s->out_c,
               s->out_w * s->out_c, s->out_c, 0, 0, 0, task->image1 - task->image0 > 1};
  if (e->encode.kind == ENCODE_NONE) return r;
  const int64_t unit = l->planes ? 4 : 1, pixel = unit * code_pixel_units(l);
  r.codes = (uint8_t*)e->codes + task->image0 * code_image_bytes(l) + unit * code_pixel(l, 0, 0);
  r.code_row = code_columns(l) * pixel;
  r.code_step = r.across ? code_image_bytes(l) : pixel;
  return r;
}

// A run from pixel (y, x) on, all but the count and the sums. `lane`: the block's first of all groups.
static inline void locate(PixelRun* r, const Outputs* o, int64_t lane, int64_t y, int64_t x) {
  const ByteConv* c = o->conv;
  r->start = c->start + c->row_class[y] * c->column_classes * o->lanes + lane;
  r->column_class = o->across ? 0 : c->column_class + x;
  r->position = o->position + y * o->row + x * o->step;
  r->step = o->step;
  r->codes = o->codes ? o->codes + y * o->code_row + x * o->code_step : 0;
  r->code_step = o->code_step;
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
    put_codes(l, pixel, 0, channel, each, n);
  }
}

// Signs as bytes, where limits tell them: VECTORS vectors of a block from the v-th on; `channel` is their first.
template <int VECTORS>
static inline void finish_signs(const ByteConv* c, int64_t v, int64_t channel, const PixelRun* run) {
  const int64_t lanes = byte_groups(c) * byte_group_lanes(c), count = run->count, code_step = run->code_step;
  const int32_t *sums = run->sums + v * LANES, *column_class = run->column_class;
  const int32_t* limits = c->limit + (run->start - c->start) + v * LANES;
  ints flip[VECTORS];
#pragma GCC unroll 4
  for (int k = 0; k < VECTORS; ++k) flip[k] = ints_load(c->flip + channel + k * LANES);
  uint8_t* pixel = run->codes + channel;
#pragma GCC unroll 4
  for (int64_t i = 0; i < count; ++i, sums += SUM_LANES, pixel += code_step) {
    const int32_t* limit = column_class ? limits + column_class[i] * lanes : limits;
#pragma GCC unroll 4
    for (int k = 0; k < VECTORS; ++k)
      store_signs(pixel + k * LANES, ints_load(sums + k * LANES), ints_load(limit + k * LANES), flip[k]);
  }
}

// What a vector of channels is multiplied by, added to and limited by; zeros where nothing is.
typedef struct {
  vec multiplier, negative, bias, scale, shift, code_scale, code_shift, reciprocal, low, high;
  vec before_scale, before_shift, slope, after_scale, after_shift, least, most;
  ints lowest;
  int64_t lanes;  // from one class of columns to the next
} Channels;

static inline Channels load_channels(const ByteConv* c, const SumEpilogue* e, int64_t channel, int64_t n) {
  const Encode* code = &e->encode;
  const Channels r = {
      load_or(e->multiplier, channel, n), load_or(e->negative, channel, n),  load_or(e->rest.bias, channel, n),
      load_or(e->rest.scale, channel, n), load_or(e->rest.shift, channel, n), load_or(code->scale, channel, n),
      load_or(code->shift, channel, n),   broadcast(code->reciprocal),       broadcast(code->low),
      broadcast(code->high),
      load_or(e->prelu.scale, channel, n), load_or(e->prelu.shift, channel, n), load_or(e->prelu.slope, channel, n),
      load_or(e->prelu.after_scale, channel, n), load_or(e->prelu.after_shift, channel, n), broadcast(e->low),
      broadcast(e->high), ints_all((int32_t)code->low), byte_groups(c) * byte_group_lanes(c),
  };
  return r;
}

// What is wanted is looked up once for so many pixels.
static const int TOGETHER = LANES / 2;
#define EACH_PIXEL _Pragma("GCC unroll 8") for (int k = 0; k < PIXELS; ++k)

// PIXELS pixels of a run, whose sums begin at lane `offset` of the block. WHOLE: all n lanes of the vector count, and
// codes are bytes or none.
template <int PIXELS, bool WHOLE>
static inline void finish_pixels(const ByteConv* c, const SumEpilogue* e, const Channels* q, int storage,
                                 int64_t offset, int64_t channel, int64_t n, const PixelRun* run, int64_t first) {
  const int64_t position = run->position + first * run->step + channel;
  const int32_t *sums = run->sums + first * SUM_LANES + offset, *starts[PIXELS];
  const bool stepped = c->step == 2;
  ints exact[PIXELS];
  vec y[PIXELS];
  EACH_PIXEL {
    starts[k] = run->start + offset + (run->column_class ? run->column_class[first + k] * q->lanes : 0);
    exact[k] = ints_load(sums + k * SUM_LANES);
  }
  if (stepped) EACH_PIXEL exact[k] = ints_add(exact[k], exact[k]);
  EACH_PIXEL y[k] = to_float(ints_add(exact[k], ints_load(starts[k])));
  if (e->multiplier) EACH_PIXEL y[k] = mul(y[k], q->multiplier);
  if (e->negative) EACH_PIXEL {
      ints less = ints_load(sums + k * SUM_LANES + HALF_LANES);
      if (stepped) less = ints_add(less, less);
      y[k] = minus(y[k], mul(to_float(ints_add(less, ints_load(starts[k] + HALF_LANES))), q->negative));
    }
  if (e->rest.bias) EACH_PIXEL y[k] = add(y[k], q->bias);
  if (e->rest.scale) EACH_PIXEL y[k] = add(mul(y[k], q->scale), q->shift);
  if (e->rest.residual) EACH_PIXEL {
      const float* residual = e->rest.residual + position + k * run->step;
      y[k] = add(y[k], WHOLE ? load(residual) : load_first(residual, n));
    }
  if (e->rest.relu) EACH_PIXEL y[k] = maximum(zero(), y[k]);
  if (e->prelu.slope) {
    EACH_PIXEL y[k] = sloped(add(mul(y[k], q->before_scale), q->before_shift), q->slope);
    EACH_PIXEL y[k] = add(mul(y[k], q->after_scale), q->after_shift);
  }
  if (e->limited) EACH_PIXEL y[k] = minimum(q->most, maximum(q->least, y[k]));
  if (e->out) EACH_PIXEL {
      float* out = e->out + position + k * run->step;
      WHOLE ? store(out, y[k]) : store_first(out, y[k], n);
    }
  if (storage == STORE_NONE) return;
  uint8_t* pixel = run->codes + first * run->code_step;
  if (e->encode.scale) EACH_PIXEL y[k] = add(mul(y[k], q->code_scale), q->code_shift);
  if (WHOLE && e->encode.kind == ENCODE_SIGN) {
    EACH_PIXEL store_not_negative(pixel + k * run->code_step + channel, y[k]);
    return;
  }
  if (e->encode.kind == ENCODE_SIGN) {
    EACH_PIXEL exact[k] = not_negative(y[k]);
  } else {
    EACH_PIXEL exact[k] = ints_sub(round_between(mul(y[k], q->reciprocal), q->low, q->high), q->lowest);
  }
  EACH_PIXEL store_codes(&e->encode.layout, WHOLE ? (int)STORE_BYTES : storage, pixel + k * run->code_step, exact[k],
                         channel, n);
}

// Vector v of a block, of which n lanes count; `channel` is the first.
template <bool WHOLE>
static inline void finish_vector(const ByteConv* c, const SumEpilogue* e, int storage, int64_t v, int64_t channel,
                                 int64_t lanes_used, const PixelRun* runs, int64_t count) {
  const int64_t n = WHOLE ? LANES : lanes_used;
  const Channels q = load_channels(c, e, channel, n);
  for (const PixelRun* run = runs; run < runs + count; ++run) {
    int64_t i = 0;
    for (; i + TOGETHER <= run->count; i += TOGETHER)
      finish_pixels<TOGETHER, WHOLE>(c, e, &q, storage, v * LANES, channel, n, run, i);
    for (; i < run->count; ++i) finish_pixels<1, WHOLE>(c, e, &q, storage, v * LANES, channel, n, run, i);
  }
}

// All channels of a block, counted through all groups.
static inline void finish_block(const ByteConv* c, const SumEpilogue* e, int storage, int64_t block,
                                const PixelRun* runs, int64_t count) {
  const int64_t group = block / byte_group_blocks(c), begin = block % byte_group_blocks(c) * byte_block_channels(c);
  const int64_t channels = byte_group_channels(c);
  const int signs = c->limit && storage == STORE_BYTES;
  if (signs && channels - begin >= (int64_t)SUM_LANES) {
    for (int64_t i = 0; i < count; ++i) finish_signs<SUM_LANES / LANES>(c, 0, group * channels + begin, runs + i);
    return;
  }
  for (int64_t v = 0; v * LANES < byte_block_channels(c) && begin + v * LANES < channels; ++v) {
    const int64_t left = channels - begin - v * LANES, n = left < LANES ? left : LANES;
    const int64_t channel = group * channels + begin + v * LANES;
    const int whole = n == LANES && (storage == STORE_NONE || storage == STORE_BYTES);
    if (!whole) {
      finish_vector<false>(c, e, storage, v, channel, n, runs, count);
    } else if (!signs) {
      finish_vector<true>(c, e, storage, v, channel, n, runs, count);
    } else {
      for (int64_t i = 0; i < count; ++i) finish_signs<1>(c, v, channel, runs + i);
    }
  }
}
