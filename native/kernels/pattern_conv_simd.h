// Layers with few weights in every window of inputs. Include vec_<isa>.h first, and define
//   Inputs load_inputs(const float* x, int64_t n): PATTERN_WINDOW floats, of which n >= 1 are there;
//   vec pick(Inputs, ints): of these, for each lane the one that its low four bits name;
//   ints shifted(ints, int bits): to the right; PATTERN_SUMS: registers that a tile may use for its sums.
//
// Several pixels: a register of values meets the inputs of all of them. One pixel is bound by reading the weights, and
// passes several blocks at once, as linear_simd.h does.
#pragma once
#include "pattern_simd.h"

static inline ints load_places(const uint8_t* p, int64_t bytes) {
  if (bytes == 1) return ints_u8(p);
  return bytes == 2 ? ints_u16((const uint16_t*)p) : ints_u32((const uint32_t*)p);
}

// What the first window of a block begins with.
typedef struct {
  const uint8_t* places;
  const float* values;
} PatternPlace;
static inline PatternPlace pattern_place(const PatternTile<PatternWeights>* p, int64_t block) {
  const Tile* t = &p->tile;
  const PatternWeights* w = p->weights;
  const int64_t window = (block * p->kernel_h + t->ky0) * t->segments * w->windows * HALF_BLOCK + p->first_lane;
  const PatternPlace place = {w->places + window * w->place_bytes,
                              w->values + (window - p->first_lane) * w->slots + p->first_lane};
  return place;
}

namespace {  // its functions are of this instruction set only

struct Pattern {
  typedef PatternTile<PatternWeights> Of;
  enum { MOST = PATTERN_SUMS, ABSOLUTE = 0 };

  // One window; two slots together share the load of the inputs.
  template <int RY, int RX>
  static INLINE void add_window(const PatternWeights* w, const float* const* x, int64_t valid, PatternPlace at,
                                const int64_t* odd, vec (*sums)[1]) {
    ints place = load_places(at.places, w->place_bytes);
    for (int64_t slot = 0; slot < w->slots; slot += 2) {
      const ints next = shifted(place, 4);
      const vec even_value = load(at.values), odd_value = load(at.values + HALF_BLOCK);
      prefetch(at.values + AHEAD * HALF_BLOCK);
      prefetch(at.values + (AHEAD + 1) * HALF_BLOCK);
#pragma GCC unroll 32
      for (int m = 0; m < RY * RX; ++m) {
        const Inputs inputs = load_inputs(pixel_value(x[m / RX], odd, m % RX), valid);
        sums[m][0] = fma(pick(inputs, place), even_value, sums[m][0]);
        sums[m][0] = fma(pick(inputs, next), odd_value, sums[m][0]);
      }
      place = shifted(place, 8);
      at.values += 2 * HALF_BLOCK;
    }
  }

  template <int RY, int RX>
  static void run(const Of* p) {
    const Tile* t = &p->tile;
    const PatternWeights* w = p->weights;
    vec sums[RY * RX][1];
#pragma GCC unroll 32
    for (int m = 0; m < RY * RX; ++m) sums[m][0] = zero();
    int64_t odd[ODD_MULTIPLES];
    odd_multiples(t->pixel_step, odd);
    PatternPlace at = pattern_place(p, p->block);
    for (int64_t ky = t->ky0; ky < t->ky1; ++ky)
      for (int64_t kx = 0; kx < t->segments; ++kx) {
        const float* x[RY];
#pragma GCC unroll 2
        for (int ry = 0; ry < RY; ++ry)
          x[ry] = t->rows[ry * t->row_stride + ky * t->row_dilation] + t->offset + kx * t->segment_step;
        for (int64_t left = p->channels; left > 0; left -= PATTERN_WINDOW) {
#pragma GCC unroll 7
          for (int i = 0; i < RX / 2; ++i) __asm__("" : "+r"(odd[i]));  // as in tile
          add_window<RY, RX>(w, x, left, at, odd, sums);
#pragma GCC unroll 2
          for (int ry = 0; ry < RY; ++ry) x[ry] += PATTERN_WINDOW;
          at.places += HALF_BLOCK * w->place_bytes;
          at.values += HALF_BLOCK * w->slots;
        }
      }
    finish_tile<1, RY * RX>(
        t, sums, [t](int m) { return (m / RX) * t->out_row_step + (m % RX) * t->out_pixel_step; });
  }
};

}  // namespace

// Blocks that one sample passes at once, each a stream of its own; how many windows ahead it asks for their weights.
enum { PATTERN_STREAMS = 4, WINDOWS_AHEAD = 2 };

// The outputs of a linear layer, B blocks from p->block on, for the sample at x.
template <int B>
static void one_sample(PatternTile<PatternWeights>* p, const Epilogue* e, int64_t out_c, const float* x, float* out) {
  const PatternWeights* w = p->weights;
  const int64_t place_step = HALF_BLOCK * w->place_bytes, value_step = HALF_BLOCK * w->slots;
  const PatternPlace at = pattern_place(p, p->block);
  vec sums[B][1];
#pragma GCC unroll 4
  for (int b = 0; b < B; ++b) sums[b][0] = zero();
  for (int64_t i = 0; i < w->windows; ++i) {
    const Inputs inputs = load_inputs(x + i * PATTERN_WINDOW, p->channels - i * PATTERN_WINDOW);
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const int64_t window = b * w->windows + i;
      const float* values = at.values + window * value_step;
      ints place = load_places(at.places + window * place_step, w->place_bytes);
      prefetch((const float*)(at.places + (window + WINDOWS_AHEAD) * place_step));
      for (int64_t slot = 0; slot < w->slots; slot += 2, values += 2 * HALF_BLOCK) {
        prefetch(values + WINDOWS_AHEAD * value_step);
        prefetch(values + WINDOWS_AHEAD * value_step + HALF_BLOCK);
        sums[b][0] = fma(pick(inputs, place), load(values), sums[b][0]);
        sums[b][0] = fma(pick(inputs, shifted(place, 4)), load(values + HALF_BLOCK), sums[b][0]);
        place = shifted(place, 8);
      }
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < B; ++b) {
    Tile* t = &p->tile;
    set_output(e, out_c, 0, (p->block + b) * HALF_BLOCK + p->first_lane, out, t);
    finish_tile<1, 1>(t, sums + b, [](int) { return (int64_t)0; });
  }
}

static void pattern_sample(PATTERN_ARGUMENTS(PatternWeights)) {
  (void)scratch;
  PatternTile<PatternWeights> t;
  memset(&t, 0, sizeof t);
  t.weights = weights;
  t.kernel_h = t.tile.segments = 1;
  t.channels = shape->in_c;
  for (t.block = task->block0; t.block < task->block1;) {
    const bool whole = t.block + PATTERN_STREAMS <= task->block1;
    for (t.first_lane = 0; t.first_lane < HALF_BLOCK; t.first_lane += LANES) {
      if (whole)
        one_sample<PATTERN_STREAMS>(&t, epilogue, shape->out_c, x, out);
      else
        one_sample<1>(&t, epilogue, shape->out_c, x, out);
    }
    t.block += whole ? PATTERN_STREAMS : 1;
  }
}

static void pattern_conv(PATTERN_ARGUMENTS(PatternWeights)) {
  const Conv2dShape* s = shape;
  const int64_t pixels = s->in_h * s->in_w * s->kernel_h * s->kernel_w;
  if (pixels == 1 && s->groups == 1 && s->batch == 1 && s->pad_h + s->pad_w == 0)
    return pattern_sample(shape, weights, epilogue, x, out, task, scratch);
  pattern_layer<Pattern>(shape, weights, epilogue, x, out, task, scratch);
}
