// Product with coded weights. Include vec_<isa>.h first, and define
//   CODED_DIGITS: DIGITS_OF(bits, group) of every digit; look_up<BITS>(registers of 2^BITS sums, digits), which ignores
//   higher bits of the digits; shift_right<BITS>(ints); signed_bytes(bytes that are code ^ 128) -> vec.
//
// Few samples: the sums that a digit can mean, made once for all rows, are looked up. Many: weights become floats, a
// part at a time that stays in the first-level cache, for the loop of the dense kernel.
#pragma once
#include <string.h>

#include "coded_linear.h"
#include "epilogue_simd.h"
#include "tile.h"

// The sums of one digit for one sample.
template <int BITS, int GROUP>
static inline void make_table(const float* basis, const float* x, vec* table) {
  enum { PARTS = (1 << BITS) / LANES };
#pragma GCC unroll 4
  for (int p = 0; p < PARTS; ++p) {
    table[p] = mul(broadcast(x[0]), load(basis + p * LANES));
#pragma GCC unroll 4
    for (int j = 1; j < GROUP; ++j) table[p] = fma(broadcast(x[j]), load(basis + (j << BITS) + p * LANES), table[p]);
  }
}

// sums[n][G]: of G registers of rows, N samples `sample` floats apart. Each register of rows is a stream of its own:
// the memory hands out several streams faster than one.
template <int BITS, int GROUP, int N, int G>
static void digit_sums(const CodedMatrix* m, const float* basis, int64_t first, const float* x, int64_t sample,
                       vec* sums) {
  enum { DIGITS = 32 / BITS, PARTS = (1 << BITS) / LANES, AHEAD = 16 * LANES };
  const int64_t stream = m->words * LANES;
  const uint32_t* packed = m->packed + first * stream;
  vec acc[N][G];
#pragma GCC unroll 8
  for (int i = 0; i < N * G; ++i) acc[i / G][i % G] = zero();
  for (int64_t word = 0; word < m->words; ++word, packed += LANES) {
    ints digits[G];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      digits[g] = ints_u32(packed + g * stream);
      _mm_prefetch((const char*)(packed + g * stream + AHEAD), _MM_HINT_T0);
    }
#pragma GCC unroll 1
    for (int d = 0; d < DIGITS; ++d, x += GROUP, basis += m->book) {
      vec table[N][PARTS];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) make_table<BITS, GROUP>(basis, x + n * sample, table[n]);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) acc[n][g] = add(acc[n][g], look_up<BITS>(table[n], digits[g]));
        digits[g] = shift_right<BITS>(digits[g]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < N * G; ++i) sums[i] = acc[i / G][i % G];
}

// The same for bytes. LINE: sums of (code - 128) * x.
template <bool LINE, int N, int G>
static void byte_sums(const CodedMatrix* m, const float* table, int64_t first, const float* x, int64_t sample,
                      vec* sums) {
  enum { AHEAD = 16 * 64 };
  const int64_t stream = m->cols * LANES;
  const uint8_t* bytes = m->bytes + first * stream;
  vec acc[N][G];
#pragma GCC unroll 8
  for (int i = 0; i < N * G; ++i) acc[i / G][i % G] = zero();
  for (int64_t c = 0; c < m->cols; ++c, bytes += LANES) {
    vec input[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) input[n] = broadcast(x[n * sample + c]);
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      const uint8_t* at = bytes + g * stream;
      const vec w = LINE ? signed_bytes(at) : gather(table, ints_u8(at));
      if (c % (64 / LANES) == 0) _mm_prefetch((const char*)(at + AHEAD), _MM_HINT_T0);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) acc[n][g] = fma(input[n], w, acc[n][g]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < N * G; ++i) sums[i] = acc[i / G][i % G];
}

template <int N, int G>
static void register_sums(const CodedMatrix* m, const float* basis, int64_t first, const float* x, int64_t sample,
                          vec* sums) {
  if (m->bits == 8) {
    if (m->line) return byte_sums<true, N, G>(m, basis, first, x, sample, sums);
    return byte_sums<false, N, G>(m, basis, first, x, sample, sums);
  }
#define DIGITS_OF(bits_, group_) \
  if (m->bits == bits_ && m->group == group_) return digit_sums<bits_, group_, N, G>(m, basis, first, x, sample, sums);
  CODED_DIGITS
#undef DIGITS_OF
}

static float sum_of(const float* x, int64_t count) {
  vec total = zero();
  int64_t c = 0;
  for (; c + LANES <= count; c += LANES) total = add(total, load(x + c));
  if (c < count) total = add(total, load_first(x + c, count - c));
  return sum(total);
}

// The registers of row o and sample n of those that `e` and `out` begin with.
static void finish_rows(const CodedMatrix* m, const Epilogue* e, vec y, vec negative, int64_t n, int64_t o,
                        float* out) {
  const int64_t some = m->rows - o, position = n * m->rows + o;
  if (m->scale) y = mul(y, load_first(m->scale + o, some));
  if (m->negative) y = add(y, mul(negative, load_first(m->negative + o, some)));
  store_first(out + position, finish(e, y, o, position, some), some);
}

// G registers of rows from register `first` on.
template <int N, int G>
static void coded_rows(const CodedMatrix* m, const Epilogue* e, int64_t first, const float* x, int64_t sample,
                       const float* offsets, float* out) {
  vec sums[N * G], negative[N * G];
  register_sums<N, G>(m, m->basis, first, x, sample, sums);
  for (int i = 0; i < N * G; ++i) negative[i] = zero();
  if (m->negative_basis) register_sums<N, G>(m, m->negative_basis, first, x, sample, negative);
  for (int n = 0; n < N; ++n)
    for (int g = 0; g < G; ++g) {
      vec y = sums[n * G + g];
      if (m->line) y = add(mul(y, broadcast(m->step)), broadcast(offsets[n]));
      finish_rows(m, e, y, negative[n * G + g], n, (first + g) * LANES, out);
    }
}

template <int N>
static void coded_samples(const CodedMatrix* m, const Epilogue* e, const CodedTask* t, const float* x, float* out,
                          float* padded) {
  const int64_t sample = coded_padded_cols(m);
  float offsets[N];
  for (int n = 0; n < N; ++n) {
    memset(padded + n * sample + m->cols, 0, (sample - m->cols) * sizeof(float));
    memcpy(padded + n * sample, x + n * m->cols, m->cols * sizeof(float));
    offsets[n] = m->line && m->base != 0 ? m->base * sum_of(x + n * m->cols, m->cols) : 0;
  }
  enum { MOST = N == 1 && LANES == 16 ? 8 : 4 };
  int64_t r = t->register0;
  for (; r + MOST <= t->register1; r += MOST) coded_rows<N, MOST>(m, e, r, padded, sample, offsets, out);
  for (; r + 4 <= t->register1; r += 4) coded_rows<N, 4>(m, e, r, padded, sample, offsets, out);
  for (; r < t->register1; ++r) coded_rows<N, 1>(m, e, r, padded, sample, offsets, out);
}

// One register of rows of so many words, their columns 2 * LANES floats apart, times `factor`. ADDED: to what is there.
template <bool ADDED>
static inline void store_weight(vec factor, vec weight, float* to) {
  store(to, ADDED ? fma(factor, weight, load(to)) : mul(factor, weight));
}

template <int BITS, int GROUP, bool ADDED, bool BOOKS>
static void expand_digits(const CodedMatrix* m, const float* basis, const uint32_t* packed, int64_t words, vec factor,
                          float* to) {
  enum { DIGITS = 32 / BITS, PARTS = (1 << BITS) / LANES };
  vec table[GROUP][PARTS];
#pragma GCC unroll 16
  for (int i = 0; i < GROUP * PARTS; ++i) table[i / PARTS][i % PARTS] = load(basis + i * LANES);
  for (; words > 0; --words, packed += LANES) {
    ints digits = ints_u32(packed);
#pragma GCC unroll 10
    for (int d = 0; d < DIGITS; ++d) {
      if (BOOKS) {
#pragma GCC unroll 16
        for (int i = 0; i < GROUP * PARTS; ++i) table[i / PARTS][i % PARTS] = load(basis + i * LANES);
        basis += m->book;
      }
#pragma GCC unroll 4
      for (int j = 0; j < GROUP; ++j, to += 2 * LANES)
        store_weight<ADDED>(factor, look_up<BITS>(table[j], digits), to);
      digits = shift_right<BITS>(digits);
    }
  }
}

template <bool ADDED>
static void expand_bytes(const CodedMatrix* m, const float* basis, const uint8_t* bytes, int64_t count, vec factor,
                         float* to) {
  const vec step = broadcast(m->step), base = broadcast(m->base);
  for (; count > 0; --count, bytes += LANES, to += 2 * LANES)
    store_weight<ADDED>(factor, m->line ? fma(step, signed_bytes(bytes), base) : gather(basis, ints_u8(bytes)), to);
}

// A word of bytes is one.
static inline int64_t word_columns(const CodedMatrix* m) { return m->bits == 8 ? 1 : coded_digits(m) * m->group; }

// Asks for the codes that come next: each part of a register of rows lies far from the one before.
static void prefetch_words(const CodedMatrix* m, int64_t r, int64_t word, int64_t words) {
  const bool bytes = m->bits == 8;
  const char* from = bytes ? (const char*)(m->bytes + (r * m->cols + word) * LANES)
                           : (const char*)(m->packed + (r * m->words + word) * LANES);
  const int64_t size = words * LANES * (bytes ? 1 : 4);
  for (int64_t at = 0; at < size; at += 64) _mm_prefetch(from + at, _MM_HINT_T1);
}

template <bool ADDED>
static void expand(const CodedMatrix* m, const float* basis, int64_t r, int64_t word, int64_t words, vec factor,
                   float* to) {
  if (m->bits == 8)
    return expand_bytes<ADDED>(m, basis, m->bytes + (r * m->cols + word) * LANES, words, factor, to);
  const uint32_t* packed = m->packed + (r * m->words + word) * LANES;
  const float* from = basis + word * coded_digits(m) * m->book;
#define DIGITS_OF(bits_, group_)             \
  if (m->bits == bits_ && m->group == group_) \
    return m->book ? expand_digits<bits_, group_, ADDED, true>(m, from, packed, words, factor, to) \
                   : expand_digits<bits_, group_, ADDED, false>(m, from, packed, words, factor, to);
  CODED_DIGITS
#undef DIGITS_OF
}

// Two registers of rows from register r on; what is beyond the last one is zero.
static void expand_rows(const CodedMatrix* m, int64_t r, int64_t word, int64_t words, float* to) {
  for (int64_t o = r * LANES; o < (r + 2) * LANES; o += LANES, to += LANES) {
    if (o >= m->rows) {
      for (int64_t c = 0; c < words * word_columns(m); ++c) store(to + c * 2 * LANES, zero());
      return;
    }
    const vec scale = m->scale ? load_first(m->scale + o, m->rows - o) : broadcast(1);
    expand<false>(m, m->basis, o / LANES, word, words, scale, to);
    if (m->negative_basis)
      expand<true>(m, m->negative_basis, o / LANES, word, words, load_first(m->negative + o, m->rows - o), to);
  }
}

// Part after part of the columns, whose sums wait in `out`.
static void coded_expanded(CODED_LINEAR_ARGUMENTS) {
  const CodedMatrix* m = matrix;
  const Epilogue none = {};
  const int64_t samples = task->n1 - task->n0, tiles = (samples + MAX_RX_ONE - 1) / MAX_RX_ONE;
  const int64_t all_words = m->bits == 8 ? m->cols : m->words, most = CODED_COLUMNS / word_columns(m);
  float *weights = (float*)scratch, *inputs = weights + CODED_COLUMNS * 2 * LANES;
  const float* row = inputs;
  Tile t;
  memset(&t, 0, sizeof t);
  t.rows = &row;
  t.ky1 = t.segments = 1;
  t.pixel_step = CODED_LINE;
  t.weights = weights;
  t.width = 2 * LANES;
  t.out_pixel_step = m->rows;
  for (int64_t word = 0; word < all_words; word += most) {
    const int64_t words = word + most < all_words ? most : all_words - word, first = word * word_columns(m);
    const bool last = word + words == all_words;
    t.run = last ? m->cols - first : words * word_columns(m);
    t.continued = word > 0;
    for (int64_t n = 0; n < samples; ++n)
      memcpy(inputs + n * CODED_LINE, x + (task->n0 + n) * m->cols + first, t.run * sizeof(float));
    for (int64_t r = task->register0; r < task->register1; r += 2) {
      expand_rows(m, r, word, words, weights);
      for (int64_t next = r + 2; next < r + 4 && next < task->register1; ++next)
        prefetch_words(m, next, word, words);
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t n0 = samples * i / tiles, n1 = samples * (i + 1) / tiles;
        t.offset = n0 * CODED_LINE;
        set_output(last ? epilogue : &none, m->rows, task->n0 + n0, r * LANES, out, &t);
        tile_of_width<2, 1>(n1 - n0, &t);
      }
    }
  }
}

static void coded_linear(CODED_LINEAR_ARGUMENTS) {
  if (task->expand) return coded_expanded(matrix, epilogue, x, out, task, scratch);
  const CodedMatrix* m = matrix;
  for (int64_t n = task->n0; n < task->n1;) {
    Epilogue e = *epilogue;
    if (e.residual) e.residual += n * m->rows;
    const bool several = task->n1 - n >= CODED_SAMPLES;
    (several ? coded_samples<CODED_SAMPLES> : coded_samples<1>)(m, &e, task, x + n * m->cols, out + n * m->rows,
                                                                (float*)scratch);
    n += several ? CODED_SAMPLES : 1;
  }
}
