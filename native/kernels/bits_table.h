// Sums over bit planes without a popcount instruction. Include byte_lanes_<isa>.h first.
//
// Lanes are output channels. Four bits of the activations, the same for all channels, choose a table of 16 bytes; four bits of
// each channel's weights look up in it how many bits their combination has. Tables are chosen by four bits of each of two
// pixels: the low half of an entry counts for the first, the high half for the second, so that one look-up serves both.
//
// Three look-ups (at most 12 bits each) can be added before the halves must be taken apart. That is cheap, too:
//   high += average of two such sums' high halves, which is 8 times the sum of both, >> 3;
//   low  += the sums as they are, modulo 256: the true count is low - 16 * high, since it is less than 256.
#pragma once
#include "bits.h"

// A step is four bits; activations are looked at a chunk at a time, which can't overflow a byte (4 * CHUNK_STEPS < 256).
enum { STEPS = 8, GROUP = 6, CHUNK_WORDS = 6, CHUNK_STEPS = CHUNK_WORDS * STEPS };
// Pixels that go through a chunk of weights together, and words whose bits can be counted in 16 bits.
enum { MOST_PAIRS = 16, MOST_WORDS = 2046 };

struct CountTables {
  alignas(64) uint8_t of[2][256 * 16];
};
static constexpr CountTables make_tables() {
  CountTables t = {};
  for (int pair = 0; pair < 256; ++pair)
    for (int weight = 0; weight < 16; ++weight) {
      const int first = pair & 15, second = pair >> 4, at = 16 * pair + weight;
      t.of[BITS_XOR][at] = (uint8_t)(__builtin_popcount(first ^ weight) + 16 * __builtin_popcount(second ^ weight));
      t.of[BITS_AND][at] = (uint8_t)(__builtin_popcount(first & weight) + 16 * __builtin_popcount(second & weight));
    }
  return t;
}
static constexpr CountTables TABLES = make_tables();

// Where the tables of a chunk's steps begin, in bytes, for two pixels.
static inline void find_tables(const uint32_t* first, const uint32_t* second, uint16_t* steps) {
  const __m256i half = _mm256_set1_epi8(15);
  const __m256i a = _mm256_loadu_si256((const __m256i*)first), b = _mm256_loadu_si256((const __m256i*)second);
  const __m256i even = _mm256_or_si256(_mm256_and_si256(a, half), _mm256_slli_epi16(_mm256_and_si256(b, half), 4));
  const __m256i odd = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(a, 4), half), _mm256_andnot_si256(half, b));
  const __m256i low = _mm256_unpacklo_epi8(even, odd), high = _mm256_unpackhi_epi8(even, odd);
  const __m128i index[3] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high), _mm256_extracti128_si256(low, 1)};
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i)
    _mm256_storeu_si256((__m256i*)(steps + 16 * i), _mm256_slli_epi16(_mm256_cvtepu8_epi16(index[i]), 4));
}

// Adds 2 N steps to the sums of PAIRS pairs and NV registers of channels.
template <int N, int PAIRS, int WIDTH, int NV, bool BOTH>
static inline void add_group(const uint8_t* tables, const uint16_t* steps, const uint8_t* weights, bytes (*low)[NV],
                             bytes (*high)[NV]) {
  const bytes high_half = bytes_all(0xf0), low_half = bytes_all(0x0f);
#pragma GCC unroll 8
  for (int p = 0; p < PAIRS; ++p) {
    bytes sum[2][NV];
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part)
#pragma GCC unroll 3
      for (int i = part * N; i < part * N + N; ++i) {
        const bytes table = bytes_table(tables + steps[p * CHUNK_STEPS + i]);
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) {
          const bytes count = bytes_look_up(table, bytes_load(weights + i * WIDTH + v * BYTES));
          sum[part][v] = i == part * N ? count : bytes_add(sum[part][v], count);
        }
      }
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      if (!BOTH) {
        low[p][v] = bytes_add(low[p][v], bytes_and(sum[0][v], low_half));
        low[p][v] = bytes_add(low[p][v], bytes_and(sum[1][v], low_half));
        continue;
      }
      low[p][v] = bytes_add(bytes_add(low[p][v], sum[0][v]), sum[1][v]);
      const bytes mean = bytes_average(bytes_and(sum[0][v], high_half), bytes_and(sum[1][v], high_half));
      high[p][v] = bytes_add(high[p][v], words_shift_right(mean, 3));
    }
  }
}

// The bits of a pixel, as 16 bits per channel: first those of the first halves of every 16 channels, then of the second.
static inline void keep_counts(uint16_t* counts, bytes sums, bool fresh) {
  bytes first = words_of_first(sums), last = words_of_last(sums);
  if (!fresh) {
    first = words_add(first, bytes_load(counts));
    last = words_add(last, bytes_load(counts + BYTES / 2));
  }
  bytes_store(counts, first);
  bytes_store(counts + BYTES / 2, last);
}

// A chunk of `count` steps. counts: [2 * PAIRS][BITS_BLOCK].
template <int PAIRS, int WIDTH, bool BOTH>
static void add_chunk(const uint8_t* tables, const uint16_t* steps, int64_t count, const uint8_t* weights,
                      uint16_t* counts, bool fresh) {
  enum { NV = (WIDTH + BYTES - 1) / BYTES };
  bytes low[PAIRS][NV], high[PAIRS][NV];
#pragma GCC unroll 8
  for (int p = 0; p < PAIRS; ++p)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) low[p][v] = high[p][v] = bytes_all(0);
  for (; count >= GROUP; count -= GROUP, steps += GROUP, weights += GROUP * WIDTH)
    add_group<3, PAIRS, WIDTH, NV, BOTH>(tables, steps, weights, low, high);
  if (count == 4) add_group<2, PAIRS, WIDTH, NV, BOTH>(tables, steps, weights, low, high);
  if (count == 2) add_group<1, PAIRS, WIDTH, NV, BOTH>(tables, steps, weights, low, high);
#pragma GCC unroll 8
  for (int p = 0; p < PAIRS; ++p)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      uint16_t* at = counts + 2 * p * BITS_BLOCK + v * BYTES;
      if (!BOTH) {
        keep_counts(at, low[p][v], fresh);
        continue;
      }
      const bytes sixteen_times = bytes_and(words_shift_left(high[p][v], 4), bytes_all(0xf0));
      keep_counts(at, bytes_sub(low[p][v], sixteen_times), fresh);
      keep_counts(at + BITS_BLOCK, high[p][v], fresh);
    }
}

template <int WIDTH>
static void add_pairs(const uint8_t* tables, const uint16_t* steps, int64_t count, int64_t pixels, const uint8_t* weights,
                      uint16_t* counts, bool fresh) {
  if (pixels == 1) return add_chunk<1, WIDTH, false>(tables, steps, count, weights, counts, fresh);
  int64_t pairs = (pixels + 1) / 2;
  for (; pairs >= TILE_PAIRS; pairs -= TILE_PAIRS) {
    add_chunk<TILE_PAIRS, WIDTH, true>(tables, steps, count, weights, counts, fresh);
    steps += TILE_PAIRS * CHUNK_STEPS;
    counts += TILE_PAIRS * 2 * BITS_BLOCK;
  }
  if constexpr (TILE_PAIRS > 1) switch (pairs) {
      case 3: return add_chunk<3, WIDTH, true>(tables, steps, count, weights, counts, fresh);
      case 2: return add_chunk<2, WIDTH, true>(tables, steps, count, weights, counts, fresh);
      case 1: return add_chunk<1, WIDTH, true>(tables, steps, count, weights, counts, fresh);
    }
}

// sums = counts + (the sums before, as the pass wants them; nothing if there is no pass).
static void add_counts(const uint16_t* counts, int64_t pixels, int64_t width, const BitPass* pass, int32_t* sums) {
  const int shift = pass ? pass->shift : 0, negate = pass ? pass->negate : 0;
  for (int64_t i = 0; i < pixels; ++i, counts += BITS_BLOCK, sums += BITS_BLOCK)
    for (int64_t c = 0; c < width; c += 8) {
      const uint16_t* count = counts + c / BYTES * BYTES + c % 16 * (BYTES / 16) + c % BYTES / 16 * 8;
      if (pass) {
        for (int k = 0; k < 8; ++k) sums[c + k] = (((sums[c + k] << shift) ^ -negate) + negate) + count[k];
      } else {
        for (int k = 0; k < 8; ++k) sums[c + k] = count[k];
      }
    }
}

template <int WIDTH>
static void sum_pixels(const BitSums* s, const uint32_t* const* x, int64_t pixels, const uint8_t* weights, int32_t* sums) {
  static const BitPass more = {0, 0, 0, 0};
  alignas(64) uint16_t steps[MOST_PAIRS * CHUNK_STEPS], counts[2 * MOST_PAIRS * BITS_BLOCK];
  const uint8_t* tables = TABLES.of[s->form];
  // Taps beside each other are one where nothing lies between them.
  const int64_t taps = s->column_step == s->words ? 1 : s->kernel_w, run = s->kernel_w / taps * s->words;
  const BitPass* before = 0;
  for (const BitPass* p = s->pass; p < s->pass + s->passes; ++p) {
    const uint8_t* w = weights + p->weights * bits_steps(s) * STEPS * WIDTH;
    int64_t counted = 0;
    if (before) before = p;
    for (int64_t tap = 0; tap < s->kernel_h * taps; ++tap)
      for (int64_t word = 0, words; word < run; word += words) {
        words = run - word < CHUNK_WORDS ? run - word : (int64_t)CHUNK_WORDS;
        if (counted + words > MOST_WORDS) {
          add_counts(counts, pixels, WIDTH, before, sums);
          before = &more;
          counted = 0;
        }
        const int64_t offset = p->x + tap / taps * s->row_step + tap % taps * s->column_step + word;
        for (int64_t i = 0; i < pixels; i += 2)
          find_tables(x[i] + offset, x[i + 1 < pixels ? i + 1 : i] + offset, steps + i / 2 * CHUNK_STEPS);
        add_pairs<WIDTH>(tables, steps, words * STEPS, pixels, w, counts, counted == 0);
        w += words * STEPS * WIDTH;
        counted += words;
      }
    add_counts(counts, pixels, WIDTH, before, sums);
    before = &more;
  }
}

template <int WIDTH>
static void sum_all(BITS_ARGUMENTS) {
  (void)width;
  for (int64_t i = 0, n; i < pixels; i += n) {
    n = pixels - i < 2 * MOST_PAIRS ? pixels - i : (int64_t)(2 * MOST_PAIRS);
    sum_pixels<WIDTH>(s, x + i, n, (const uint8_t*)weights, sums + i * BITS_BLOCK);
  }
}

static void sum_of_width(BITS_ARGUMENTS) {
  switch (width) {
    case 16: return sum_all<16>(s, x, pixels, weights, width, sums);
    case 32: return sum_all<32>(s, x, pixels, weights, width, sums);
    case 48: return sum_all<48>(s, x, pixels, weights, width, sums);
    case 64: return sum_all<64>(s, x, pixels, weights, width, sums);
  }
}
