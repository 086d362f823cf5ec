// Sums over bit planes as AVX2 usually counts them, to measure bits_avx2 against: lanes of 32 bits are output channels,
// the combined bits are counted half a byte at a time by one table. Weights and activations are split into halves only
// once.
#include <immintrin.h>

#include "bits.h"

enum { LANES = 8, TILE_PIXELS = 8, MOST_PIXELS = 32 };
// Words whose bits can be counted in bytes.
enum { CHUNK_WORDS = 31 };

typedef struct {
  alignas(32) uint32_t low[CHUNK_WORDS + 1], high[CHUNK_WORDS + 1];
} Halves;

static inline __m256i load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }

static void split(const uint32_t* x, int64_t words, Halves* halves) {
  const __m256i half = _mm256_set1_epi8(15);
  for (int64_t i = 0; i < words; i += LANES) {
    const __m256i v = load(x + i);
    _mm256_store_si256((__m256i*)(halves->low + i), _mm256_and_si256(v, half));
    _mm256_store_si256((__m256i*)(halves->high + i), _mm256_and_si256(_mm256_srli_epi16(v, 4), half));
  }
}

template <int FORM>
static inline __m256i combine(__m256i a, __m256i b) {
  return FORM == BITS_XOR ? _mm256_xor_si256(a, b) : _mm256_and_si256(a, b);
}

// Adds the bits of PX pixels and eight channels.
template <int FORM, int PX>
static void tile(const Halves* x, const uint32_t* weights, int64_t width, int64_t words, int32_t* sums) {
  const __m256i half = _mm256_set1_epi8(15);
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                          0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  __m256i acc[PX];
#pragma GCC unroll 8
  for (int m = 0; m < PX; ++m) acc[m] = _mm256_setzero_si256();
  for (int64_t i = 0; i < words; ++i, weights += width) {
    const __m256i w = load(weights), low = _mm256_and_si256(w, half);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), half);
#pragma GCC unroll 8
    for (int m = 0; m < PX; ++m) {
      const __m256i first = combine<FORM>(low, _mm256_set1_epi32((int32_t)x[m].low[i]));
      const __m256i second = combine<FORM>(high, _mm256_set1_epi32((int32_t)x[m].high[i]));
      acc[m] = _mm256_add_epi8(acc[m], _mm256_shuffle_epi8(counts, first));
      acc[m] = _mm256_add_epi8(acc[m], _mm256_shuffle_epi8(counts, second));
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < PX; ++m) {
    const __m256i sum = _mm256_madd_epi16(_mm256_maddubs_epi16(acc[m], _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
    __m256i* at = (__m256i*)(sums + m * BITS_BLOCK);
    _mm256_storeu_si256(at, _mm256_add_epi32(load(at), sum));
  }
}

template <int FORM>
static void add_chunk(const Halves* x, int64_t pixels, const uint32_t* weights, int64_t width, int64_t words,
                      int32_t* sums) {
  for (int64_t lane = 0; lane < width; lane += LANES) {
    int64_t i = 0;
    for (; i + TILE_PIXELS <= pixels; i += TILE_PIXELS)
      tile<FORM, TILE_PIXELS>(x + i, weights + lane, width, words, sums + i * BITS_BLOCK + lane);
    for (; i + 2 <= pixels; i += 2) tile<FORM, 2>(x + i, weights + lane, width, words, sums + i * BITS_BLOCK + lane);
    if (i < pixels) tile<FORM, 1>(x + i, weights + lane, width, words, sums + i * BITS_BLOCK + lane);
  }
}

static void sum_pixels(BITS_ARGUMENTS) {
  Halves halves[MOST_PIXELS];
  const auto add = s->form == BITS_XOR ? add_chunk<BITS_XOR> : add_chunk<BITS_AND>;
  const int64_t taps = s->column_step == s->words ? 1 : s->kernel_w, run = s->kernel_w / taps * s->words;
  const int64_t chunks = (run + CHUNK_WORDS - 1) / CHUNK_WORDS;
  for (int64_t i = 0; i < pixels * BITS_BLOCK; ++i) sums[i] = 0;
  for (const BitPass* p = s->pass; p < s->pass + s->passes; ++p) {
    const int32_t factor = (p->negate ? -1 : 1) * (1 << p->shift);
    for (int64_t i = 0; i < pixels * BITS_BLOCK; ++i) sums[i] *= factor;
    const uint32_t* w = (const uint32_t*)weights + p->weights * bits_steps(s) * width;
    for (int64_t tap = 0; tap < s->kernel_h * taps; ++tap)
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t word = run * chunk / chunks, words = run * (chunk + 1) / chunks - word;
        const int64_t offset = p->x + tap / taps * s->row_step + tap % taps * s->column_step + word;
        for (int64_t i = 0; i < pixels; ++i) split(x[i] + offset, words, halves + i);
        add(halves, pixels, w, width, words, sums);
        w += words * width;
      }
  }
}

void bits_plain_avx2(BITS_ARGUMENTS) {
  for (int64_t i = 0, n; i < pixels; i += n) {
    n = pixels - i < MOST_PIXELS ? pixels - i : (int64_t)MOST_PIXELS;
    sum_pixels(s, x + i, n, weights, width, sums + i * BITS_BLOCK);
  }
}
