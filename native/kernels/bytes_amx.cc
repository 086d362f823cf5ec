// Convolution of byte codes in AMX tiles: up to 16 pixels by 16 sums, 64 products each, in one instruction.
#include "vec_avx512.h"

#include <string.h>

#include "packed_weights.h"
#include "sums_avx512.h"
#include "sums_simd.h"
#include "tiles_amx.h"

// Consecutive pixels of a tile are one pixel step apart. A line is a row of the output, or all images of a batch; or,
// where that fills tiles better, all rows at once, the positions between their ends included: columns apart, as in
// memory.
typedef struct {
  int64_t lines, length;
  int64_t rows;    // of a tile: pixels
  int64_t pieces;  // tiles per line, the last one perhaps over some pixels again
  int64_t columns; // positions from a row of the output to the next if a line has all of them, else 0
} Lines;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// First position of piece `i` in its line.
static int64_t piece_begin(const Lines* l, int64_t i) {
  const int64_t begin = i % l->pieces * l->rows, last = l->length - l->rows;
  return begin < last ? begin : last;
}

static Lines divide(int64_t lines, int64_t length, int64_t columns) {
  const int64_t pieces = ceil_div(length, 16);
  const Lines r = {lines, length, ceil_div(length, pieces), pieces, columns};
  return r;
}

// Pairs of tiles. These take 64 cycles for four products whatever their rows: the unit takes in two tiles of weights.
static int64_t cost(const Lines* l) { return ceil_div(l->lines * l->pieces, 2); }

static Lines choose_lines(const ByteConv* c, const ByteTask* task) {
  const Conv2dShape* s = &c->shape;
  const int64_t images = task->image1 - task->image0, rows = task->row1 - task->row0, columns = code_columns(&c->x);
  if (images > 1) return divide(1, images, 0);
  const Lines by_row = divide(rows, s->out_w, 0);
  if (s->stride_h != s->stride_w) return by_row;
  const Lines flat = divide(1, (rows - 1) * columns + s->out_w, columns);
  return cost(&flat) < cost(&by_row) ? flat : by_row;
}

typedef struct {
  const uint8_t* x[2];  // first pixels
  int64_t pixel_step, kernel_h, tap_row_step, segments, segment_step, chunks;
  const uint8_t* weights;
  int64_t width;   // bytes of the block's lanes of one word
  int32_t* sums;   // [2][16][SUM_LANES]
  int32_t* before; // where what the registers hold from the call before goes, or null
  int resume;      // adds to the sums
} AmxTile;

// Register REGISTER, whose sums begin AT lanes from the first, takes up the sums of this call. Its store lies between
// two products of other registers: four stores in a row would keep the unit waiting.
#define TAKE_UP(REGISTER, AT)                                              \
  if (FIRST) {                                                             \
    const int64_t step = SUM_LANES * sizeof(int32_t);                      \
    if (t->before) _tile_stored(REGISTER, t->before + (AT), step);         \
    if (t->resume)                                                         \
      _tile_loadd(REGISTER, t->sums + (AT), step);                         \
    else                                                                   \
      _tile_zero(REGISTER);                                                \
  }
enum { SECOND = 16 * SUM_LANES };  // sums of the second tile of pixels

// A product of each of NA tiles of pixels with each of NB tiles of lanes: sums in registers 0 to 3, pixels in 4 and 5,
// weights in 6 and 7.
template <int NA, int NB, bool FIRST>
static inline void amx_step(const AmxTile* t, int64_t at, const uint8_t* w) {
  _tile_loadd(6, w, t->width);
  _tile_loadd(4, t->x[0] + at, t->pixel_step);
  TAKE_UP(0, 0)
  _tile_dpbusd(0, 4, 6);
  if (NB > 1) _tile_loadd(7, w + 64, t->width);
  TAKE_UP(1, 16)
  if (NB > 1) _tile_dpbusd(1, 4, 7);
  if (NA > 1) _tile_loadd(5, t->x[1] + at, t->pixel_step);
  TAKE_UP(2, SECOND)
  if (NA > 1) _tile_dpbusd(2, 5, 6);
  TAKE_UP(3, SECOND + 16)
  if (NA > 1 && NB > 1) _tile_dpbusd(3, 5, 7);
}

template <int NA, int NB>
static void amx_tile(const AmxTile* t) {
  const uint8_t* w = t->weights;
  for (int64_t ky = 0; ky < t->kernel_h; ++ky)
    for (int64_t g = 0; g < t->segments; ++g) {
      int64_t at = ky * t->tap_row_step + g * t->segment_step;
      for (int64_t k = 0; k < t->chunks; ++k, at += 64, w += 16 * t->width)
        w == t->weights ? amx_step<NA, NB, true>(t, at, w) : amx_step<NA, NB, false>(t, at, w);
    }
}

// The sums of one or two tiles of pixels, into registers.
static void add_products(int pieces, const AmxTile* t) {
  if (t->width == 4 * SUM_LANES)
    pieces == 2 ? amx_tile<2, 2>(t) : amx_tile<1, 2>(t);
  else
    pieces == 2 ? amx_tile<2, 1>(t) : amx_tile<1, 1>(t);
}
static void store_sums(int32_t* sums) {
  const int64_t step = SUM_LANES * sizeof(int32_t);
  _tile_stored(0, sums, step);
  _tile_stored(1, sums + 16, step);
  _tile_stored(2, sums + SECOND, step);
  _tile_stored(3, sums + SECOND + 16, step);
}

// The runs of the pixels of piece `i` of all lines, those left out that an earlier piece had or that are no outputs.
static int64_t piece_runs(const Outputs* o, int64_t row0, const Lines* l, int64_t i, int64_t lane, const int32_t* sums,
                          PixelRun* runs) {
  const int64_t begin = piece_begin(l, i), end = begin + l->rows;
  PixelRun* r = runs;
  for (int64_t p = i % l->pieces * l->rows; p < end;) {
    const int64_t y = l->columns ? p / l->columns : i / l->pieces, x = l->columns ? p % l->columns : p;
    const int64_t left = l->columns ? l->columns - x : end, outputs = l->columns ? o->conv->shape.out_w - x : end;
    if (outputs > 0) {
      locate(r, o, lane, row0 + y, x);
      r->count = outputs < end - p ? outputs : end - p;
      r++->sums = sums + (p - begin) * SUM_LANES;
    }
    p += left;
  }
  return r - runs;
}

// A block of a linear layer with packed weights, for all images of a task.
static void packed_block(const ByteConv* c, AmxTile t, int64_t block, const Lines* l, const uint8_t* first,
                         uint32_t* expanded) {
  const int64_t words = t.chunks * 16, lanes = t.width / 4;
  int32_t* sums = t.sums;
  t.weights = (const uint8_t*)expanded;
  for (int64_t word = 0; word < words; word += PACKED_WORDS) {
    const int64_t count = words - word < PACKED_WORDS ? words - word : (int64_t)PACKED_WORDS;
    t.chunks = count / 16;
    t.resume = word > 0;
    expand_words(c, block, lanes, words, word, count, (int8_t*)expanded);
    for (int64_t i = 0; i < l->pieces; i += 2) {
      for (int j = 0; j < 2; ++j) t.x[j] = first + piece_begin(l, i + j) * t.pixel_step + word * 4;
      t.before = word || i ? t.sums : 0;
      t.sums = sums + i * 16 * SUM_LANES;
      add_products(i + 1 < l->pieces ? 2 : 1, &t);
    }
  }
  store_sums(t.sums);
}

// What the tiles of a task have in common.
typedef struct {
  const ByteConv* conv;
  const SumEpilogue* epilogue;
  int storage;
  int64_t row0;
  Outputs outputs;
  Lines lines;
  const uint8_t* first;  // codes of the first pixel
  AmxTile tile;          // all weights of a block, which one is left open
} Task;

// A pair of tiles of pixels.
typedef struct {
  int64_t block;
  int32_t* sums;
  PixelRun runs[32];
  int64_t runs_found;  // 0: not all products are summed
} Tiles;

static void finish(const Task* task, const Tiles* tiles) {
  if (!tiles->runs_found) return;
  finish_block(task->conv, task->epilogue, task->storage, tiles->block, tiles->runs, tiles->runs_found);
}

// Whether two pairs of tiles take up the weights a kernel row at a time, one pair after the other: so the second finds
// them in the first-level cache, where a row stays and all rows would not. 256 channels on 28x28, signs to signs, take
// 0.21 instead of 0.27 ms; where floats come and go too nothing was gained.
static int row_by_row(const Task* task, const AmxTile* t) {
  const int64_t cache = 48 << 10, row = t->segments * t->chunks * 64 * SUM_LANES;
  const int several = task->lines.lines * task->lines.pieces > 2;
  return several && !task->epilogue->out && t->kernel_h * row > cache && 3 * row <= 2 * cache;
}

// The products of the pair of tiles that begins with piece i, all or those of kernel row `part`, which are the last of
// the pair if `last`. While they are summed, the pair before is finished.
static void sum_pair(const Task* task, const AmxTile* tile, int64_t lane, int64_t i, int64_t part, int last, Tiles* now,
                     const Tiles* before) {
  const ByteConv* c = task->conv;
  const Lines* l = &task->lines;
  const int64_t row = c->shape.stride_h * code_columns(&c->x) * code_pixel_units(&c->x);
  const int pieces = i + 1 < l->lines * l->pieces ? 2 : 1;
  AmxTile t = *tile;
  t.weights += part * t.segments * t.chunks * 16 * t.width;
  t.sums = now->sums;
  t.before = before ? before->sums : 0;
  t.resume = part > 0;
  now->runs_found = 0;
  for (int j = 0; j < pieces; ++j) {
    t.x[j] += (i + j) / l->pieces * row + piece_begin(l, i + j) * t.pixel_step + part * t.tap_row_step;
    const int32_t* sums = t.sums + j * 16 * SUM_LANES;
    if (last)
      now->runs_found += piece_runs(&task->outputs, task->row0, l, i + j, lane, sums, now->runs + now->runs_found);
  }
  add_products(pieces, &t);
  if (before && before != now) finish(task, before);
}

// All pixels of a block with weights of words. `before`: the pair whose sums wait in registers, or null; returns the
// last of the block, which then does.
static Tiles* word_block(const Task* task, int64_t b, Tiles* both, Tiles* before) {
  const ByteConv* c = task->conv;
  const int64_t group = b / byte_group_blocks(c), block = b % byte_group_blocks(c);
  const int64_t lane = group * byte_group_lanes(c) + block * SUM_LANES;
  const int64_t pieces = task->lines.lines * task->lines.pieces;
  AmxTile t = task->tile;
  t.width = 4 * byte_block_lanes(c, block);
  t.weights = (const uint8_t*)c->weights + lane * t.kernel_h * t.segments * t.chunks * 64;
  for (int j = 0; j < 2; ++j) t.x[j] = task->first + group * code_group_units(&c->x);
  const int64_t parts = row_by_row(task, &t) ? t.kernel_h : 1;
  t.kernel_h /= parts;
  for (int64_t i = 0; i < pieces; i += 4) {
    const int turn = before == both;  // begins where no sums wait
    for (int64_t part = 0; part < parts; ++part)
      for (int k = 0; k < 2 && i + 2 * k < pieces; ++k) {
        Tiles* now = both + (turn ^ k);
        now->block = b;
        sum_pair(task, &t, lane, i + 2 * k, part, part == parts - 1, now, before);
        before = now;
      }
  }
  return before;
}

void bytes_amx(BYTES_ARGUMENTS) {
  const ByteConv* c = conv;
  const Conv2dShape* s = &c->shape;
  const int storage = byte_code_storage(c, &epilogue->encode);
  clear_margins(epilogue, storage, task);
  const int64_t pixel = code_pixel_units(&c->x), row = code_columns(&c->x) * pixel, image = code_image_bytes(&c->x);
  const uint8_t* first = x + task->image0 * image + (c->x.top + task->row0 * s->stride_h - s->pad_h) * row +
                         (c->x.left - s->pad_w) * pixel;
  const Outputs outputs = task_outputs(c, epilogue, task);
  const Lines lines = choose_lines(c, task);
  configure(lines.rows);
  ByteScratch* own = (ByteScratch*)scratch;
  AmxTile t = {};
  t.pixel_step = task->image1 - task->image0 > 1 ? image : s->stride_w * pixel;
  t.kernel_h = s->kernel_h;
  t.tap_row_step = s->dilation_h * row;
  t.segments = byte_segments(c);
  t.segment_step = s->dilation_w * pixel;
  t.chunks = ceil_div(byte_segment_codes(c), 64);
  t.sums = own->sums;
  const Task all = {c, epilogue, storage, task->row0, outputs, lines, first, t};
  Tiles both[2], *last = 0;
  both[0].sums = own->sums;
  both[1].sums = own->sums + 32 * SUM_LANES;
  for (int64_t b = task->block0; b < task->block1 && !c->bits; ++b) last = word_block(&all, b, both, last);
  if (last) {
    store_sums(last->sums);
    finish(&all, last);
  }
  for (int64_t b = task->block0; b < task->block1 && c->bits; ++b) {
    PixelRun runs[BYTE_IMAGES];
    int64_t found = 0;
    t.width = 4 * byte_block_lanes(c, b);
    packed_block(c, t, b, &lines, first, own->weights);
    for (int64_t i = 0; i < lines.pieces; ++i)
      found += piece_runs(&outputs, task->row0, &lines, i, b * SUM_LANES, t.sums + i * 16 * SUM_LANES, runs + found);
    finish_block(c, epilogue, storage, b, runs, found);
  }
  _tile_release();
}
