// The end of sums over bit planes, sixteen channels (a unit) at a time: the same operations as in the normative form, each
// rounded by itself. Include vec_<isa>.h, sums_<isa>.h and lane_bits_<isa>.h first.
#pragma once
#include <string.h>

#include "bits.h"

enum { VECTORS = BITS_UNIT / LANES };

static inline ints whole_sum(const BitFinish* f, ints passes, ints start) {
  const ints weighed = ints_shift_left(passes, f->shift);
  return f->negate ? ints_sub(start, weighed) : ints_add(start, weighed);
}

static inline void store_unit(uint8_t* at, uint32_t bits, int64_t fill) {
  const uint16_t unit = (uint16_t)bits;
  memcpy(at, &unit, sizeof unit);
  if (fill) memset(at + sizeof unit, 0, fill);
}

// The codes of a unit: bit `lane` of bits[n] is bit n of the code, bits beyond the channels are zero.
static inline void put_unit(const BitFinish* f, uint8_t* pixel, int64_t lane, int64_t channels, const uint32_t* bits) {
  const Encode* e = &f->e.encode;
  const int64_t plane = 4 * code_plane_units(&e->layout);
  if (f->fill) {
    for (int64_t n = 0; n < e->layout.planes; ++n)
      store_unit(pixel + n * plane + f->place[lane] / 8, bits[n], f->fill[lane / BITS_UNIT]);
    return;
  }
  for (int64_t n = 0; n < e->layout.planes; ++n)
    for (int64_t i = 0; i < channels; ++i) {
      const int32_t place = f->place[lane + i];
      pixel[n * plane + place / 8] |= (uint8_t)((bits[n] >> i & 1) << place % 8);
    }
}

static inline void put_bytes(const BitFinish* f, uint8_t* pixel, int64_t lane, int64_t channels, const ints* codes) {
  int32_t each[BITS_UNIT];
  for (int v = 0; v < VECTORS; ++v) ints_store(each + v * LANES, codes[v]);
  for (int64_t i = 0; i < channels; ++i) pixel[f->place[lane + i]] = (uint8_t)each[i];
  if (f->fill) memset(pixel + f->place[lane + channels - 1] + 1, 0, f->fill[lane / BITS_UNIT]);
}

static inline void finish_limits(const BitFinish* f, const BitFinishTask* t, int64_t unit, int64_t channels) {
  const int64_t lane = t->lane + unit;
  const uint32_t valid = (1u << channels) - 1, flip = f->flip[lane / BITS_UNIT];
  for (int64_t i = 0; i < t->pixels; ++i) {
    const int32_t *sums = t->sums + i * BITS_BLOCK + unit, *limit = f->limit + t->classes[i] + lane;
    uint32_t bits = 0;
    for (int v = 0; v < VECTORS; ++v)
      bits |= lanes_less(ints_load(sums + v * LANES), ints_load(limit + v * LANES)) << v * LANES;
    bits = (bits ^ flip) & valid;
    put_unit(f, t->codes[i], lane, channels, &bits);
  }
}

static inline void finish_values(const BitFinish* f, const BitFinishTask* t, int64_t unit, int64_t channels) {
  const SumEpilogue* e = &f->e;
  const Epilogue* rest = &e->rest;
  const Encode* encode = &e->encode;
  const int64_t lane0 = t->lane + unit, planes = encode->layout.planes;
  const uint32_t valid = (1u << channels) - 1;
  const vec reciprocal = broadcast(encode->reciprocal), low = broadcast(encode->low), high = broadcast(encode->high);
  const ints lowest = ints_all((int32_t)encode->low);
  for (int64_t i = 0; i < t->pixels; ++i) {
    ints codes[VECTORS];
    uint32_t bits[8] = {0};
    for (int v = 0; v < VECTORS; ++v) {
      const int64_t lane = lane0 + v * LANES, at = i * BITS_BLOCK + unit + v * LANES, left = channels - v * LANES;
      const int64_t position = (t->pixel0 + i) * f->channels + t->channel + unit + v * LANES;
      vec y = to_float(whole_sum(f, ints_load(t->sums + at), ints_load(f->start + t->classes[i] + lane)));
      if (e->multiplier) y = mul(y, load(e->multiplier + lane));
      if (t->negative) {
        const ints second = whole_sum(f, ints_load(t->negative + at), ints_load(f->negative + t->classes[i] + lane));
        y = minus(y, mul(to_float(second), load(e->negative + lane)));
      }
      if (rest->bias) y = add(y, load(rest->bias + lane));
      if (rest->scale) y = add(mul(y, load(rest->scale + lane)), load(rest->shift + lane));
      if (rest->residual && left > 0) y = add(y, load_first(rest->residual + position, left));
      if (rest->relu) y = maximum(zero(), y);
      if (e->out && left > 0) store_first(e->out + position, y, left);
      if (!e->codes) continue;
      if (encode->scale) y = add(mul(y, load(encode->scale + lane)), load(encode->shift + lane));
      if (encode->kind == ENCODE_SIGN && planes == 1) {
        bits[0] |= lanes_not_negative(y) << v * LANES;
        continue;
      }
      codes[v] = encode->kind == ENCODE_SIGN ? not_negative(y) : ints_sub(round_between(mul(y, reciprocal), low, high), lowest);
      for (int n = 0; n < planes; ++n) bits[n] |= lanes_set(codes[v], n) << v * LANES;
    }
    if (!e->codes) continue;
    if (!planes) {
      put_bytes(f, t->codes[i], lane0, channels, codes);
      continue;
    }
    for (int n = 0; n < planes; ++n) bits[n] &= valid;
    put_unit(f, t->codes[i], lane0, channels, bits);
  }
}

static inline void finish_block(BITS_FINISH_ARGUMENTS) {
  for (int64_t unit = 0; unit < t->width; unit += BITS_UNIT) {
    const int64_t left = t->count - unit, channels = left < BITS_UNIT ? left : BITS_UNIT;
    if (f->limit)
      finish_limits(f, t, unit, channels);
    else
      finish_values(f, t, unit, channels);
  }
}
