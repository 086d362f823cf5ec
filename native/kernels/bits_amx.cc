// Sums over bit planes in AMX tiles: the planes of a window's activations become bytes, which are multiplied by int8 weights,
// all planes at once.
#include <immintrin.h>
#include <string.h>

#include "bits.h"

// Chunks: 64 channels, two words, the depth of a tile. The pixels of a phase of chunks stay in the first cache while weights
// stream by; with longer phases they don't, shorter ones load and store sums more often.
enum { TILE = 16, CHUNK = 64, PHASE = 5, MOST_TILES = 4 };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void configure(int64_t rows) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } tiles;
  memset(&tiles, 0, sizeof tiles);
  tiles.palette = 1;
  for (int i = 0; i < 8; ++i) {
    tiles.row_bytes[i] = CHUNK;
    tiles.rows[i] = (uint8_t)(i < 6 ? rows : (int64_t)TILE);  // sums and pixels, weights
  }
  _tile_loadconfig(&tiles);
}

// Goes through the steps of a window, a word of a tap each.
typedef struct {
  int64_t word, kx, row, at;  // `at`: words from the window's first; `row`: those to the row of taps
} Steps;

static inline int64_t next_step(const BitSums* s, Steps* p) {
  const int64_t at = p->at + p->word;
  if (++p->word == s->words) {
    p->word = 0;
    p->at += s->column_step;
    if (++p->kx == s->kernel_w) {
      p->kx = 0;
      p->at = p->row += s->row_step;
    }
  }
  return at;
}

// The bits of a chunk; WIDE: its words are neighbours.
template <int WIDE>
static inline __mmask64 chunk_bits(const uint32_t* x, const int64_t* words) {
  if (WIDE) {
    uint64_t both;
    memcpy(&both, x + words[0], sizeof both);
    return _cvtu64_mask64(both);
  }
  return _cvtu64_mask64(x[words[0]] | (uint64_t)(words[1] < 0 ? 0 : x[words[1]]) << 32);
}

// The codes of some chunks of `rows` windows.
template <int WIDE, int PLANES>
static inline void unpack_rows(const BitSums* s, const uint32_t* const* x, int64_t rows, const int64_t* words, int64_t chunks,
                               uint8_t (*out)[TILE][CHUNK]) {
  const int planes = PLANES ? PLANES : (int)s->passes;
  const __m512i one = _mm512_set1_epi8(1);
  for (int64_t m = 0; m < rows; ++m) {
    const uint32_t* window = x[m];
    if (planes == 1) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < chunks; ++i)
        _mm512_store_si512(out[i][m], _mm512_maskz_mov_epi8(chunk_bits<WIDE>(window, words + 2 * i), one));
      continue;
    }
    for (int64_t i = 0; i < chunks; ++i) {
      __m512i codes = _mm512_setzero_si512(), worth = one;
      for (int n = 0; n < planes; ++n, worth = _mm512_add_epi8(worth, worth))
        codes = _mm512_mask_add_epi8(codes, chunk_bits<WIDE>(window + (s->pass[n].x - s->pass[0].x), words + 2 * i), codes, worth);
      _mm512_store_si512(out[i][m], codes);
    }
  }
}

// Windows begin in the first plane.
static void unpack(const BitSums* s, const uint32_t* const* x, int64_t rows, const int64_t* words, int64_t chunks,
                   uint8_t (*out)[TILE][CHUNK]) {
  const int wide = s->words % 2 == 0;
  if (s->passes == 1)
    (wide ? unpack_rows<1, 1> : unpack_rows<0, 1>)(s, x, rows, words, chunks, out);
  else if (s->passes == 2)
    (wide ? unpack_rows<1, 2> : unpack_rows<0, 2>)(s, x, rows, words, chunks, out);
  else
    (wide ? unpack_rows<1, 0> : unpack_rows<0, 0>)(s, x, rows, words, chunks, out);
}

// Adds a phase to the sums of NA tiles of pixels and 16 channels: sums in registers 0 to 3, pixels in 4 and 5, weights in 6.
// Pixels are loaded again for each 16 channels, from the first cache; weights, from farther away, once for all pixels.
template <int NA>
static void add_phase(const uint8_t (*pixels)[PHASE][TILE][CHUNK], int64_t chunks, int first, const uint8_t* weights,
                      int32_t* sums, int64_t rows) {
  const int64_t step = BITS_BLOCK * (int64_t)sizeof(int32_t), tile = rows * BITS_BLOCK;
  if (first) {
    _tile_zero(0);
    if (NA > 1) _tile_zero(1);
    if (NA > 2) _tile_zero(2);
    if (NA > 3) _tile_zero(3);
  } else {
    _tile_loadd(0, sums, step);
    if (NA > 1) _tile_loadd(1, sums + tile, step);
    if (NA > 2) _tile_loadd(2, sums + 2 * tile, step);
    if (NA > 3) _tile_loadd(3, sums + 3 * tile, step);
  }
  for (int64_t i = 0; i < chunks; ++i, weights += TILE * CHUNK) {
    _tile_loadd(6, weights, CHUNK);
    _tile_loadd(4, pixels[0][i], CHUNK);
    _tile_dpbusd(0, 4, 6);
    if (NA > 1) {
      _tile_loadd(5, pixels[1][i], CHUNK);
      _tile_dpbusd(1, 5, 6);
    }
    if (NA > 2) {
      _tile_loadd(4, pixels[2][i], CHUNK);
      _tile_dpbusd(2, 4, 6);
    }
    if (NA > 3) {
      _tile_loadd(5, pixels[3][i], CHUNK);
      _tile_dpbusd(3, 5, 6);
    }
  }
  _tile_stored(0, sums, step);
  if (NA > 1) _tile_stored(1, sums + tile, step);
  if (NA > 2) _tile_stored(2, sums + 2 * tile, step);
  if (NA > 3) _tile_stored(3, sums + 3 * tile, step);
}

void bits_amx(BITS_ARGUMENTS) {
  const int64_t tiles = ceil_div(pixels, TILE), rows = ceil_div(pixels, tiles), chunks = ceil_div(bits_steps(s), 2);
  // The last tile may have rows too many: they repeat the last window, and their sums are nobody's.
  const uint32_t* windows[MOST_TILES * TILE];
  for (int64_t i = 0; i < tiles * rows; ++i) windows[i] = x[least(i, pixels - 1)] + s->pass[0].x;
  static void (*const add[])(const uint8_t (*)[PHASE][TILE][CHUNK], int64_t, int, const uint8_t*, int32_t*, int64_t) = {
      add_phase<1>, add_phase<2>, add_phase<3>, add_phase<4>};
  configure(rows);
  alignas(64) uint8_t codes[MOST_TILES][PHASE][TILE][CHUNK];
  Steps steps = {0, 0, 0, 0};
  for (int64_t chunk = 0; chunk < chunks; chunk += PHASE) {
    const int64_t count = least(PHASE, chunks - chunk);
    int64_t words[2 * PHASE];
    for (int64_t i = 0; i < 2 * count; ++i) words[i] = 2 * chunk + i < bits_steps(s) ? next_step(s, &steps) : -1;
    for (int64_t t = 0; t < tiles; ++t) unpack(s, windows + t * rows, rows, words, count, codes[t]);
    const uint8_t* w = (const uint8_t*)weights + chunk * TILE * CHUNK;
    for (int64_t lane = 0; lane < width; lane += TILE)
      add[tiles - 1](codes, count, chunk == 0, w + lane * chunks * CHUNK, sums + lane, rows);
  }
  _tile_release();
}
