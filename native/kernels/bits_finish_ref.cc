// The end of sums over bit planes: the normative form.
#include <string.h>

#include "bits.h"
#include "sums_ref.h"

static int32_t whole_sum(const BitFinish* f, int32_t passes, int32_t start) {
  const int32_t weighed = passes * (1 << f->shift);
  return f->negate ? start - weighed : start + weighed;
}

static void put(const Encode* e, uint8_t* pixel, int32_t place, uint32_t code) {
  if (!e->layout.planes) {
    pixel[place] = (uint8_t)code;
    return;
  }
  for (int64_t n = 0; n < e->layout.planes; ++n)
    pixel[4 * n * code_plane_units(&e->layout) + place / 8] |= (uint8_t)((code >> n & 1) << place % 8);
}

static void clear_unit(const Encode* e, uint8_t* pixel, int32_t place, int64_t channels, int64_t fill) {
  if (!e->layout.planes) memset(pixel + place, 0, channels + fill);
  for (int64_t n = 0; n < e->layout.planes; ++n)
    memset(pixel + 4 * n * code_plane_units(&e->layout) + place / 8, 0, BITS_UNIT / 8 + fill);
}

static uint32_t code_of(const BitFinish* f, const BitFinishTask* t, int64_t i, int64_t lane) {
  const SumEpilogue* e = &f->e;
  const int32_t passes = t->sums[i * BITS_BLOCK + lane - t->lane];
  if (f->limit)
    return (passes < f->limit[t->classes[i] + lane]) != (f->flip[lane / BITS_UNIT] >> lane % BITS_UNIT & 1);
  const int32_t sum = whole_sum(f, passes, f->start[t->classes[i] + lane]);
  int32_t second = 0;
  if (t->negative)
    second = whole_sum(f, t->negative[i * BITS_BLOCK + lane - t->lane], f->negative[t->classes[i] + lane]);
  const int64_t channel = t->channel + lane - t->lane, position = (t->pixel0 + i) * f->channels + channel;
  // Vectors are per lane, the residual is per channel.
  const float y = sum_value(e, sum, second, lane, position);
  if (e->out) e->out[position] = y;
  return e->codes ? encode_value(&e->encode, y, lane) : 0;
}

void bits_finish_ref(BITS_FINISH_ARGUMENTS) {
  for (int64_t unit = 0; unit < t->width; unit += BITS_UNIT) {
    const int64_t left = t->count - unit, lane0 = t->lane + unit, channels = left < BITS_UNIT ? left : +BITS_UNIT;
    for (int64_t i = 0; i < t->pixels; ++i) {
      if (f->e.codes && f->fill)
        clear_unit(&f->e.encode, t->codes[i], f->place[lane0], channels, f->fill[lane0 / BITS_UNIT]);
      for (int64_t lane = lane0; lane < lane0 + channels; ++lane) {
        const uint32_t code = code_of(f, t, i, lane);
        if (f->e.codes) put(&f->e.encode, t->codes[i], f->place[lane], code);
      }
    }
  }
}
