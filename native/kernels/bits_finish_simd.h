// The end of sums over bit planes, sixteen channels (a unit) at a time: the same operations as in the normative form,
// each rounded by itself. Include vec_<isa>.h, sums_<isa>.h and lane_bits_<isa>.h first.
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

// Signs of WIDTH channels whose bits are neighbours.
template <int WIDTH>
static void finish_signs(const BitFinish* f, const BitFinishTask* t) {
  const int64_t at = f->place[t->lane] / 8, fill = f->fill[(t->lane + WIDTH) / BITS_UNIT - 1], pixels = t->pixels;
  const int32_t *sums = t->sums, *limits = f->limit + t->lane, *classes = t->classes;
  uint8_t* const* codes = t->codes;
  uint64_t flip = 0;
  for (int i = 0; i < WIDTH / BITS_UNIT; ++i) flip |= (uint64_t)f->flip[t->lane / BITS_UNIT + i] << i * BITS_UNIT;
  const uint64_t valid = ~0ull >> (64 - t->count);
  for (int64_t i = 0; i < pixels; ++i, sums += BITS_BLOCK) {
    const int32_t* limit = limits + classes[i];
    uint64_t bits = 0;
#pragma GCC unroll 8
    for (int v = 0; v < WIDTH / LANES; ++v)
      bits |= (uint64_t)lanes_less(ints_load(sums + v * LANES), ints_load(limit + v * LANES)) << v * LANES;
    bits = (bits ^ flip) & valid;
    memcpy(codes[i] + at, &bits, WIDTH / 8);
    if (fill) memset(codes[i] + at + WIDTH / 8, 0, fill);
  }
}

static inline int neighbours(const BitFinish* f, const BitFinishTask* t) {
  if (!f->fill) return 0;
  for (int64_t unit = BITS_UNIT; unit < t->width; unit += BITS_UNIT)
    if (f->place[t->lane + unit] != f->place[t->lane] + unit) return 0;
  return 1;
}

static inline void finish_limits(const BitFinish* f, const BitFinishTask* t) {
  if (neighbours(f, t)) switch (t->width) {
    case 16: return finish_signs<16>(f, t);
    case 32: return finish_signs<32>(f, t);
    case 48: return finish_signs<48>(f, t);
    case 64: return finish_signs<64>(f, t);
  }
  for (int64_t unit = 0; unit < t->width; unit += BITS_UNIT) {
    const int64_t lane = t->lane + unit, left = t->count - unit, most = BITS_UNIT;
    const int64_t channels = left < most ? left : most;
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
}

// The vectors of a unit, in registers while its pixels pass.
typedef struct {
  vec multiplier[VECTORS], negative[VECTORS], bias[VECTORS], scale[VECTORS], shift[VECTORS];
  vec before_scale[VECTORS], before_shift[VECTORS], slope[VECTORS], after_scale[VECTORS], after_shift[VECTORS];
  vec code_scale[VECTORS], code_shift[VECTORS];
} UnitVectors;

static inline void load_unit(vec* to, const float* from, int64_t lane) {
#pragma GCC unroll 2
  for (int v = 0; v < VECTORS; ++v) to[v] = from ? load(from + lane + v * LANES) : zero();
}

static inline void finish_values(const BitFinish* all, const BitFinishTask* of, int64_t unit, int64_t channels) {
  // Copies: as far as the compiler knows, stores of codes could change what the arguments point to.
  const BitFinish f = *all;
  const BitFinishTask t = *of;
  const SumEpilogue* e = &f.e;
  const Epilogue* rest = &e->rest;
  const Encode* encode = &e->encode;
  const int64_t lane = t.lane + unit, planes = e->codes ? encode->layout.planes : 0;
  const int signs = encode->kind == ENCODE_SIGN;
  const uint32_t valid = (1u << channels) - 1;
  const vec reciprocal = broadcast(encode->reciprocal), low = broadcast(encode->low), high = broadcast(encode->high);
  const vec least = broadcast(e->low), most = broadcast(e->high);
  const ints lowest = ints_all((int32_t)encode->low);
  UnitVectors u;
  load_unit(u.multiplier, e->multiplier, lane);
  load_unit(u.negative, e->negative, lane);
  load_unit(u.bias, rest->bias, lane);
  load_unit(u.scale, rest->scale, lane);
  load_unit(u.shift, rest->shift, lane);
  load_unit(u.before_scale, e->prelu.scale, lane);
  load_unit(u.before_shift, e->prelu.shift, lane);
  load_unit(u.slope, e->prelu.slope, lane);
  load_unit(u.after_scale, e->prelu.after_scale, lane);
  load_unit(u.after_shift, e->prelu.after_shift, lane);
  load_unit(u.code_scale, encode->scale, lane);
  load_unit(u.code_shift, encode->shift, lane);
  for (int64_t i = 0; i < t.pixels; ++i) {
    const int32_t* start = f.start + t.classes[i] + lane;
    ints codes[VECTORS] = {ints_zero()};
    uint32_t bits[8] = {0};
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) {
      const int64_t at = i * BITS_BLOCK + unit + v * LANES, left = channels - v * LANES;
      const int64_t position = (t.pixel0 + i) * f.channels + t.channel + unit + v * LANES;
      vec y = to_float(whole_sum(&f, ints_load(t.sums + at), ints_load(start + v * LANES)));
      if (e->multiplier) y = mul(y, u.multiplier[v]);
      if (t.negative) {
        const ints second = ints_load(f.negative + t.classes[i] + lane + v * LANES);
        y = minus(y, mul(to_float(whole_sum(&f, ints_load(t.negative + at), second)), u.negative[v]));
      }
      if (rest->bias) y = add(y, u.bias[v]);
      if (rest->scale) y = add(mul(y, u.scale[v]), u.shift[v]);
      if (rest->residual && left > 0) y = add(y, load_first(rest->residual + position, left));
      if (rest->relu) y = maximum(zero(), y);
      if (e->prelu.slope) {
        y = sloped(add(mul(y, u.before_scale[v]), u.before_shift[v]), u.slope[v]);
        y = add(mul(y, u.after_scale[v]), u.after_shift[v]);
      }
      if (e->limited) y = minimum(most, maximum(least, y));
      if (e->out && left > 0) store_first(e->out + position, y, left);
      if (!e->codes) continue;
      if (encode->scale) y = add(mul(y, u.code_scale[v]), u.code_shift[v]);
      if (signs && planes == 1) {
        bits[0] |= lanes_not_negative(y) << v * LANES;
        continue;
      }
      codes[v] = signs ? not_negative(y) : ints_sub(round_between(mul(y, reciprocal), low, high), lowest);
      for (int n = 0; n < planes; ++n) bits[n] |= lanes_set(codes[v], n) << v * LANES;
    }
    if (!e->codes) continue;
    if (!planes) {
      put_bytes(&f, t.codes[i], lane, channels, codes);
      continue;
    }
    for (int n = 0; n < planes; ++n) bits[n] &= valid;
    put_unit(&f, t.codes[i], lane, channels, bits);
  }
}

static inline void finish_block(BITS_FINISH_ARGUMENTS) {
  if (f->limit) return finish_limits(f, t);
  for (int64_t unit = 0; unit < t->width; unit += BITS_UNIT) {
    const int64_t left = t->count - unit, most = BITS_UNIT;
    finish_values(f, t, unit, left < most ? left : most);
  }
}
