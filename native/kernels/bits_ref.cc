// Sums over bit planes: the normative form.
#include "bits.h"
#include "popcount.h"

static int32_t one_pass(const BitSums* s, const uint32_t* x, const uint32_t* w, int64_t width) {
  int32_t sum = 0;
  for (int64_t ky = 0; ky < s->kernel_h; ++ky)
    for (int64_t kx = 0; kx < s->kernel_w; ++kx)
      for (int64_t i = 0; i < s->words; ++i) {
        const uint32_t q = x[ky * s->row_step + kx * s->column_step + i];
        sum += popcount(s->form == BITS_XOR ? q ^ *w : q & *w);
        w += width;
      }
  return sum;
}

void bits_ref(BITS_ARGUMENTS) {
  const uint32_t* w = (const uint32_t*)weights;
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t lane = 0; lane < width; ++lane) {
      int32_t sum = 0;
      for (const BitPass* p = s->pass; p < s->pass + s->passes; ++p) {
        sum *= 1 << p->shift;
        if (p->negate) sum = -sum;
        sum += one_pass(s, x[pixel] + p->x, w + p->weights * bits_steps(s) * width + lane, width);
      }
      sums[pixel * BITS_BLOCK + lane] = sum;
    }
}
