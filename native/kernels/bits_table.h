// Sums over bit planes without a popcount instruction. Include byte_lanes_<isa>.h first.
//
// Lanes are output channels. Four bits of the activations, the same for all channels, choose a table of 16 bytes; four
// bits of each channel's weights look up in it how many bits their combination has. Tables are chosen by four bits of
// each of two pixels: the low half of an entry counts for the first, the high half for the second, so that one look-up
// serves both.
//
// Three look-ups (at most 12 bits each) can be added before the halves must be taken apart. That is cheap, too:
//   high += average of two such sums' high halves, which is 8 times the sum of both, >> 3;
//   low  += the sums as they are, modulo 256: the true count is low - 16 * high, since it is less than 256.
#pragma once
#include "bits.h"

// A step is four bits. Bytes hold the counts of a chunk (4 * CHUNK_STEPS < 256), 16 bits those of a segment, whose
// weights stay in the first cache while up to MOST_PAIRS pairs of pixels go through it.
enum { STEPS = 8, GROUP = 6, CHUNK_WORDS = 6, CHUNK_STEPS = CHUNK_WORDS * STEPS, SEGMENT = 4, MOST_PAIRS = 16 };
enum { PAIR_STEPS = SEGMENT * CHUNK_STEPS };

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
  const __m128i index[3] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high),
                            _mm256_extracti128_si256(low, 1)};
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
        const bytes table = bytes_table(tables + steps[p * PAIR_STEPS + i]);
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

// Counts in 16 bits: those of the first and of the last halves of every 16 channels.
typedef struct {
  bytes first, last;
} Counts;
static inline void add_bytes(Counts* counts, bytes a) {
  counts->first = words_add(counts->first, words_of_first(a));
  counts->last = words_add(counts->last, words_of_last(a));
}

// Adds eight counts to sums.
static inline void add_eight(const uint16_t* counts, bool fresh, int32_t* sums) {
  __m256i sum = _mm256_cvtepu16_epi32(_mm_load_si128((const __m128i*)counts));
  if (!fresh) sum = _mm256_add_epi32(sum, _mm256_loadu_si256((const __m256i*)sums));
  _mm256_storeu_si256((__m256i*)sums, sum);
}

// Adds counts to the sums of BYTES channels.
static inline void add_counts(const Counts* counts, bool fresh, int32_t* sums) {
  alignas(64) uint16_t first[BYTES / 2], last[BYTES / 2];
  bytes_store(first, counts->first);
  bytes_store(last, counts->last);
#pragma GCC unroll 4
  for (int i = 0; i < BYTES / 2; i += 8) {
    add_eight(first + i, fresh, sums + 2 * i);
    add_eight(last + i, fresh, sums + 2 * i + 8);
  }
}

// Words of all windows: so many, `offset` words from where a window begins.
typedef struct {
  int64_t offset, words;
} Chunk;

typedef struct {
  Chunk chunk[SEGMENT];
  int64_t chunks;
  const uint8_t* weights;
  bool fresh;  // the sums begin here
} Segment;

template <int PAIRS, int WIDTH, bool BOTH>
static void add_segment(const uint8_t* tables, const uint16_t* steps, const Segment* segment, int32_t* sums) {
  enum { NV = (WIDTH + BYTES - 1) / BYTES };
  const uint8_t* weights = segment->weights;
  Counts counts[PAIRS][2][NV];
#pragma GCC unroll 8
  for (int p = 0; p < PAIRS; ++p)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v)
      counts[p][0][v].first = counts[p][0][v].last = counts[p][1][v].first = counts[p][1][v].last = bytes_all(0);
  for (int64_t c = 0; c < segment->chunks; ++c) {
    bytes low[PAIRS][NV], high[PAIRS][NV];
#pragma GCC unroll 8
    for (int p = 0; p < PAIRS; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) low[p][v] = high[p][v] = bytes_all(0);
    const uint16_t* step = steps + c * CHUNK_STEPS;
    int64_t left = segment->chunk[c].words * STEPS;
    for (; left >= GROUP; left -= GROUP, step += GROUP, weights += GROUP * WIDTH)
      add_group<3, PAIRS, WIDTH, NV, BOTH>(tables, step, weights, low, high);
    if (left == 4) add_group<2, PAIRS, WIDTH, NV, BOTH>(tables, step, weights, low, high);
    if (left == 2) add_group<1, PAIRS, WIDTH, NV, BOTH>(tables, step, weights, low, high);
    weights += left * WIDTH;
#pragma GCC unroll 8
    for (int p = 0; p < PAIRS; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) {
        if (BOTH) {
          add_bytes(&counts[p][1][v], high[p][v]);
          low[p][v] = bytes_sub(low[p][v], bytes_and(words_shift_left(high[p][v], 4), bytes_all(0xf0)));
        }
        add_bytes(&counts[p][0][v], low[p][v]);
      }
  }
#pragma GCC unroll 8
  for (int p = 0; p < PAIRS; ++p)
#pragma GCC unroll 2
    for (int second = 0; second <= BOTH; ++second)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v)
        add_counts(&counts[p][second][v], segment->fresh, sums + (2 * p + second) * BITS_BLOCK + v * BYTES);
}

template <int WIDTH>
static void add_pixels(const uint8_t* tables, const Segment* segment, const uint32_t* const* x, int64_t pixels,
                       int32_t* sums) {
  alignas(64) uint16_t steps[MOST_PAIRS * PAIR_STEPS];
  const uint16_t* step = steps;
  for (int64_t i = 0; i < pixels; i += 2)
    for (int64_t c = 0; c < segment->chunks; ++c) {
      const int64_t offset = segment->chunk[c].offset;
      find_tables(x[i] + offset, x[i + 1 < pixels ? i + 1 : i] + offset, steps + i / 2 * PAIR_STEPS + c * CHUNK_STEPS);
    }
  int64_t pairs = pixels / 2;
  for (; pairs >= TILE_PAIRS; pairs -= TILE_PAIRS, step += TILE_PAIRS * PAIR_STEPS, sums += TILE_PAIRS * 2 * BITS_BLOCK)
    add_segment<TILE_PAIRS, WIDTH, true>(tables, step, segment, sums);
  for (; pairs > 0; --pairs, step += PAIR_STEPS, sums += 2 * BITS_BLOCK)
    add_segment<1, WIDTH, true>(tables, step, segment, sums);
  if (pixels % 2) add_segment<1, WIDTH, false>(tables, step, segment, sums);
}

// Sums become what a pass wants them to be before it. Those of unused lanes hold anything, hence no signed arithmetic.
static void weigh(const BitPass* pass, int64_t count, int32_t* sums) {
  const uint32_t shift = pass->shift, negate = pass->negate;
  for (int64_t i = 0; i < count; ++i) sums[i] = (int32_t)((((uint32_t)sums[i] << shift) ^ (0 - negate)) + negate);
}

template <int WIDTH>
static void sum_pixels(BITS_ARGUMENTS) {
  (void)width;
  // Taps beside each other are one where nothing lies between them.
  const int64_t taps = s->column_step == s->words ? 1 : s->kernel_w, run = s->kernel_w / taps * s->words;
  for (const BitPass* p = s->pass; p < s->pass + s->passes; ++p) {
    Segment segment = {};
    segment.weights = (const uint8_t*)weights + p->weights * bits_steps(s) * STEPS * WIDTH;
    segment.fresh = p == s->pass;
    if (!segment.fresh) weigh(p, pixels * BITS_BLOCK, sums);
    for (int64_t tap = 0; tap < s->kernel_h * taps; ++tap)
      for (int64_t word = 0; word < run; word += CHUNK_WORDS) {
        Chunk* chunk = segment.chunk + segment.chunks++;
        chunk->offset = p->x + tap / taps * s->row_step + tap % taps * s->column_step + word;
        chunk->words = run - word < CHUNK_WORDS ? run - word : (int64_t)CHUNK_WORDS;
        const bool last = tap == s->kernel_h * taps - 1 && word + CHUNK_WORDS >= run;
        if (segment.chunks < SEGMENT && !last) continue;
        add_pixels<WIDTH>(TABLES.of[s->form], &segment, x, pixels, sums);
        for (int64_t c = 0; c < segment.chunks; ++c) segment.weights += segment.chunk[c].words * STEPS * WIDTH;
        segment.chunks = 0;
        segment.fresh = false;
      }
  }
}

template <int WIDTH>
static void sum_all(BITS_ARGUMENTS) {
  for (int64_t i = 0, n; i < pixels; i += n) {
    n = pixels - i < 2 * MOST_PAIRS ? pixels - i : (int64_t)(2 * MOST_PAIRS);
    sum_pixels<WIDTH>(s, x + i, n, weights, width, sums + i * BITS_BLOCK);
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
