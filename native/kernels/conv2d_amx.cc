// Convolution of floats in AMX tiles: each float is the sum of three bfloat16 parts, a product the sum of the six
// largest products of parts.
#include "vec_avx512.h"

#include "tile.h"
#include "tiles_amx.h"

#include "conv2d_rows.h"
#include "parts.h"

enum { TILE_BYTES = 16 * 64, TILE_PIXELS = 16, PIECE_SUMS = TILE_PIXELS * BLOCK };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Below the low half of a float lies what the parts before it left. Rounding makes the remainders small; half a unit
// carries into the exponent where it must.
static inline __m512i high_part(__m512 x) {
  const __m512i rounded = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
  return _mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000));
}

static inline void split(__m512 x, __m512i* part) {
  part[0] = high_part(x);
  const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(part[0]));
  part[1] = high_part(rest);
  part[2] = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(part[1])));
}

// The parts of `runs` times `count` floats, `step` apart, into three planes, `plane` numbers apart. Whether all are of
// a size that parts can have.
static int split_runs(const float* x, int64_t runs, int64_t step, int64_t count, uint16_t* out, int64_t plane) {
  uint16_t odd[32];
  for (int i = 0; i < 32; ++i) odd[i] = (uint16_t)(2 * i + 1);
  const __m512i high_halves = _mm512_loadu_si512(odd), size = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  for (const float* const end = x + runs * step; x < end; x += step, out += count)
    for (int64_t i = 0; i < count; i += 2 * LANES) {
      __m512i part[2][PARTS];
      for (int j = 0; j < 2; ++j) {
        const vec v = load_first(x + i + j * LANES, count - i - j * LANES);
        most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(v), size));
        split(v, part[j]);
      }
      const __mmask32 valid = count - i >= 32 ? 0xffffffffu : (1u << (count - i)) - 1;
      for (int p = 0; p < PARTS; ++p)
        _mm512_mask_storeu_epi16(out + p * plane + i, valid,
                                 _mm512_permutex2var_epi16(part[0][p], high_halves, part[1][p]));
    }
  return _mm512_reduce_max_epu32(most) <= PARTS_LIMIT;
}

typedef struct {
  const char* x[2];  // first pixels
  int64_t pixel_step, row_step, plane, ky0, ky1, chunks;
  const char* weights;
  float* sums;  // [2][16][BLOCK]
} AmxTile;

// Sums of a tile of neighbouring pixels, of which [begin, end) wait to be finished. `tile`: the output of the first.
typedef struct {
  Tile tile;
  const float* sums;
  int64_t begin, end;
} Piece;

// Pixels [from, to) of two pieces, counted through. Nothing but outputs is written: other stores between products were
// measured to cost time.
static __attribute__((noinline)) void finish_pixels(const Piece* pieces, int64_t from, int64_t to) {
  for (int64_t i = from; i < to; ++i) {
    const Piece* p = &pieces[i / TILE_PIXELS];
    const int64_t pixel = i % TILE_PIXELS;
    if (pixel < p->begin || pixel >= p->end) continue;
    const float* from_sums = p->sums + pixel * BLOCK;
    vec sums[1][2] = {{load(from_sums), load(from_sums + LANES)}};
    finish_tile<2, 1>(&p->tile, sums, [=](int) { return pixel * p->tile.out_pixel_step; });
  }
}

template <int NA, int NB>
static inline void multiply_tiles(void) {
  _tile_dpbf16ps(0, 4, 6);
  if (NB > 1) _tile_dpbf16ps(1, 4, 7);
  if (NA > 1) _tile_dpbf16ps(2, 5, 6);
  if (NA > 1 && NB > 1) _tile_dpbf16ps(3, 5, 7);
}

// Stores the sums of the products before these, and multiplies for new ones. Loads wait for the tiles that are stored
// before them, so it is these products, whose operands are there, that run meanwhile.
template <int NA, int NB>
static inline void multiply_anew(float* sums) {
  const int64_t step = BLOCK * sizeof(float);
  _tile_stored(0, sums, step);
  _tile_zero(0);
  if (NA > 0) _tile_dpbf16ps(0, 4, 6);
  _tile_stored(1, sums + 16, step);
  _tile_zero(1);
  if (NB > 1) _tile_dpbf16ps(1, 4, 7);
  _tile_stored(2, sums + PIECE_SUMS, step);
  _tile_zero(2);
  if (NA > 1) _tile_dpbf16ps(2, 5, 6);
  _tile_stored(3, sums + PIECE_SUMS + 16, step);
  _tile_zero(3);
  if (NA > 1 && NB > 1) _tile_dpbf16ps(3, 5, 7);
}

// NA tiles of pixels by NB tiles of channels: sums in registers 0 to 3, pixels in 4 and 5, weights in 6 and 7. Pixels
// of the products before, `waiting`, are finished between these, which takes next to no time there: all of them at once
// would be waited for, and their stores hold up loads.
template <int NA, int NB>
static void add_products(const AmxTile* t, const Piece* waiting) {
  const char* w = t->weights + t->ky0 * t->chunks * PARTS * NB * TILE_BYTES;
  int64_t finished = 0;
  int anew = 1;
  for (int64_t ky = t->ky0; ky < t->ky1; ++ky) {
    int64_t at = ky * t->row_step;
    for (int64_t k = 0; k < t->chunks; ++k, at += 64, w += PARTS * NB * TILE_BYTES) {
      const auto pixels = [=](int part) {
        _tile_loadd(4, t->x[0] + at + part * t->plane, t->pixel_step);
        if (NA > 1) _tile_loadd(5, t->x[1] + at + part * t->plane, t->pixel_step);
      };
      const auto weights = [=](int part) {
        _tile_loadd(6, w + part * NB * TILE_BYTES, 64);
        if (NB > 1) _tile_loadd(7, w + part * NB * TILE_BYTES + TILE_BYTES, 64);
      };
      // Each pair of parts differs from the one before it in one part only.
      const auto finish_some = [&] {
        if (finished == 2 * TILE_PIXELS) return;
        finish_pixels(waiting, finished, finished + 2);
        finished += 2;
      };
      pixels(2), weights(0);
      anew ? multiply_anew<NA, NB>(t->sums) : multiply_tiles<NA, NB>();
      anew = 0;
      pixels(1), multiply_tiles<NA, NB>();
      weights(1), multiply_tiles<NA, NB>(), finish_some();
      pixels(0), multiply_tiles<NA, NB>(), finish_some();
      weights(2), multiply_tiles<NA, NB>(), finish_some();
      weights(0), multiply_tiles<NA, NB>(), finish_some();
    }
  }
  if (anew) multiply_anew<0, 0>(t->sums);
  finish_pixels(waiting, finished, 2 * TILE_PIXELS);
}

// A piece's outputs from pixel x on in row oy.
static void locate(const Conv2dShape* s, const Epilogue* e, int64_t image, int64_t oy, int64_t x, int64_t channel,
                   float* out, Piece* p) {
  const int64_t position = ((image * s->out_h + oy) * s->out_w + x) * s->out_c + channel;
  p->tile.lanes = s->out_c - channel;
  p->tile.out = out + position;
  p->tile.out_pixel_step = s->out_c;
  p->tile.epilogue.bias = advance(e->bias, channel);
  p->tile.epilogue.scale = advance(e->scale, channel);
  p->tile.epilogue.shift = advance(e->shift, channel);
  p->tile.epilogue.residual = advance(e->residual, position);
  p->tile.epilogue.relu = e->relu;
}

typedef struct {
  char* rows;  // the split input rows of output row `row0` and on, `row_bytes` apart
  float* sums;
  int64_t row0, row_bytes, plane;
} SplitRows;

// Pieces of a row have one length: the last repeats some pixels of the one before it. A lone row has pairs of them.
static int64_t row_pieces(const Conv2dShape* s) {
  const int64_t least = ceil_div(s->out_w, TILE_PIXELS);
  return s->out_h == 1 && least > 1 ? least + least % 2 : least;
}

// Rows [row0, row1) of the output.
static void tiled_rows(const Conv2dShape* s, const Epilogue* e, const Conv2dTask* task, const char* weights,
                       const SplitRows* in, float* out) {
  AmxTile t;
  t.pixel_step = s->stride_w * s->in_c * 2;
  t.row_step = s->dilation_h * in->row_bytes;
  t.plane = in->plane;
  t.chunks = parts_chunks(s);
  t.sums = in->sums;
  const int64_t pieces = row_pieces(s), length = ceil_div(s->out_w, pieces);
  const int64_t count = (task->row1 - task->row0) * pieces;
  for (int64_t b = task->block0; b < task->block1; ++b) {
    const int wide = block_width(s->out_c, b) == BLOCK;
    t.weights = weights + 2 * b * s->kernel_h * t.chunks * PARTS * TILE_BYTES;
    // While the products of a pair of pieces are summed, the pair before it is finished.
    Piece both[2][2];
    both[1][0].begin = both[1][0].end = both[1][1].begin = both[1][1].end = 0;
    int turn = 0;
    for (int64_t i = 0; i < count; turn ^= 1) {
      const KernelRows own = kernel_rows(s, task->row0 + i / pieces);
      const KernelRows next = kernel_rows(s, task->row0 + (i + 1) / pieces);
      const int now = i + 1 < count && own.begin == next.begin && own.end == next.end ? 2 : 1;
      t.ky0 = own.begin;
      t.ky1 = own.end;
      for (int j = 0; j < now; ++j) {
        const int64_t oy = task->row0 + (i + j) / pieces, x = (i + j) % pieces * length;
        const int64_t repeated = x + length > s->out_w ? x + length - s->out_w : 0;
        t.x[j] = in->rows + (oy - in->row0) * s->stride_h * in->row_bytes + (x - repeated) * t.pixel_step;
        Piece* p = &both[turn][j];
        p->sums = in->sums + j * PIECE_SUMS;
        p->begin = repeated;
        p->end = length;
        locate(s, e, task->image, oy, x - repeated, b * BLOCK, out, p);
      }
      if (now == 1) both[turn][1].begin = both[turn][1].end = 0;
      const Piece* waiting = both[turn ^ 1];
      if (wide)
        now == 2 ? add_products<2, 2>(&t, waiting) : add_products<1, 2>(&t, waiting);
      else
        now == 2 ? add_products<2, 1>(&t, waiting) : add_products<1, 1>(&t, waiting);
      i += now;
    }
    multiply_anew<0, 0>(t.sums);
    finish_pixels(both[turn ^ 1], 0, 2 * TILE_PIXELS);
  }
}

// The weights of a block as conv2d_avx512 wants them: the parts of a weight have just the weight as their sum.
static void join_block(const Conv2dShape* s, int64_t block, const uint16_t* parts, float* weights) {
  const int64_t run = s->kernel_w * s->in_c, width = block_width(s->out_c, block);
  float* packed = weights + block * BLOCK * s->kernel_h * run;
  for (int64_t ky = 0; ky < s->kernel_h; ++ky)
    for (int64_t k = 0; k < run; ++k)
      for (int64_t lane = 0; lane < width; ++lane) {
        float sum = 0;
        for (int part = PARTS; part-- > 0;) {
          const uint32_t bits = (uint32_t)parts[part_position(s, block, ky, k, lane, part)] << 16;
          float value;
          memcpy(&value, &bits, sizeof value);
          sum += value;
        }
        packed[(ky * run + k) * width + lane] = sum;
      }
}

// The input rows of an output row side by side, [x][ky][c], four rows at a time.
static void merge_rows(const Conv2dShape* s, const float* const* rows, float* out) {
  const int64_t width = s->in_w + 2 * s->pad_w, last = s->kernel_h - 1;
  int32_t places[LANES] = {0};
  for (int32_t i = 0; i < 4 * s->in_c; ++i) places[i] = (int32_t)(i / s->in_c * 4 + i % s->in_c);
  const __m512i order = _mm512_loadu_si512(places);
  for (int64_t ky = 0; ky <= last; ky += 4, out += 4 * s->in_c) {
    const float* row[4];
    for (int64_t j = 0; j < 4; ++j) row[j] = rows[(ky + j < last ? ky + j : last) * s->dilation_h];
    const int64_t values = (last + 1 - ky < 4 ? last + 1 - ky : 4) * s->in_c;
    const __mmask16 valid = (__mmask16)((1u << values) - 1);
    float* to = out;
    for (int64_t x = 0; x < width * s->in_c; x += s->in_c, to += s->kernel_h * s->in_c) {
      __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(row[0] + x));
      v = _mm512_insertf32x4(v, _mm_loadu_ps(row[1] + x), 1);
      v = _mm512_insertf32x4(v, _mm_loadu_ps(row[2] + x), 2);
      v = _mm512_insertf32x4(v, _mm_loadu_ps(row[3] + x), 3);
      _mm512_mask_storeu_ps(to, valid, _mm512_permutexvar_ps(order, v));
    }
  }
}

static void merged_rows(CONV2D_ARGUMENTS) {
  const Conv2dShape* s = shape;
  const Conv2dShape view = parts_view(s);
  const PartsScratch at = parts_scratch(s, task->row1 - task->row0);
  char* own = (char*)scratch;
  const int64_t plane = parts_plane(&view), values = (s->in_w + 2 * s->pad_w) * view.in_c;
  SplitRows in = {own + at.rows, (float*)(own + at.sums), task->row0, PARTS * plane, plane};
  float* merged = (float*)(own + at.merged);
  for (int p = 0; p < MERGED_ROWS * PARTS; ++p) memset(in.rows + p * plane + 2 * values, 0, plane - 2 * values);
  prepare_rows(s, x + task->image * s->in_h * s->in_w * s->in_c, task, own + at.inputs);
  const float* const* inputs = (const float* const*)(own + at.inputs);
  Conv2dTask some = *task;
  for (; some.row0 < task->row1; some.row0 = some.row1) {
    in.row0 = some.row0;
    some.row1 = some.row0 + MERGED_ROWS < task->row1 ? some.row0 + MERGED_ROWS : task->row1;
    for (int64_t oy = some.row0; oy < some.row1; ++oy) {
      merge_rows(s, inputs + (oy - task->row0) * s->stride_h, merged);
      split_runs(merged, 1, values, values, (uint16_t*)(in.rows + (oy - some.row0) * in.row_bytes), plane / 2);
    }
    tiled_rows(&view, epilogue, &some, (const char*)weights, &in, out);
  }
}

// The padded input rows of a task, or the pixels that a flat convolution reads, in parts. regular: of each row.
static void split_inputs(const Conv2dShape* s, const Conv2dTask* task, const float* image, const SplitRows* in,
                         uint8_t* regular) {
  const int64_t inner = s->in_w * s->in_c, border = s->pad_w * s->in_c, rows = task->row1 - task->row0;
  for (int64_t r = 0; parts_flat(s) && r < rows; ++r) {
    uint16_t* row = (uint16_t*)(in->rows + r * in->row_bytes);
    const float* x = image + (task->row0 + r) * s->stride_h * inner;
    regular[r] = (uint8_t)split_runs(x, s->out_w, s->stride_w * s->in_c, s->in_c, row, in->plane / 2);
  }
  const int64_t inputs = conv2d_input_rows(s, rows), top = task->row0 * s->stride_h - s->pad_h;
  for (int64_t r = 0; !parts_flat(s) && r < inputs; ++r) {
    regular[r] = 1;
    if (top + r < 0 || top + r >= s->in_h) continue;  // no tile reads it
    for (int p = 0; p < PARTS; ++p) {
      char* row = in->rows + r * in->row_bytes + p * in->plane;
      memset(row, 0, 2 * border);
      memset(row + 2 * (border + inner), 0, in->plane - 2 * (border + inner));
    }
    uint16_t* row = (uint16_t*)(in->rows + r * in->row_bytes) + border;
    regular[r] = (uint8_t)split_runs(image + (top + r) * inner, 1, inner, inner, row, in->plane / 2);
  }
}

// Rows of a flat convolution as one row: tiles are full whatever the width.
static void tiled_pixels(const Conv2dShape* s, const Epilogue* e, const Conv2dTask* task, const char* weights,
                         const SplitRows* in, float* out) {
  Conv2dShape line = *s;
  line.in_w = line.out_w = (task->row1 - task->row0) * s->out_w;
  line.in_h = line.out_h = line.stride_h = line.stride_w = 1;
  const int64_t position = (task->image * s->out_h + task->row0) * s->out_w * s->out_c;
  Epilogue from = *e;
  from.residual = advance(e->residual, position);
  const Conv2dTask whole = {0, 0, 1, task->block0, task->block1};
  SplitRows pixels = *in;
  pixels.rows += (task->row0 - in->row0) * in->row_bytes;
  pixels.row0 = 0;
  configure(ceil_div(line.out_w, row_pieces(&line)));
  tiled_rows(&line, &from, &whole, weights, &pixels, out + position);
}

static void plain_rows(CONV2D_ARGUMENTS) {
  const Conv2dShape* s = shape;
  const int64_t rows = task->row1 - task->row0, plane = parts_plane(s);
  const PartsScratch at = parts_scratch(s, rows);
  const int flat = parts_flat(s);
  char* own = (char*)scratch;
  const SplitRows in = {own + at.rows, (float*)(own + at.sums), task->row0, flat ? plane : PARTS * plane,
                        flat ? rows * plane : plane};
  uint8_t* regular = (uint8_t*)own + at.regular;
  split_inputs(s, task, x + task->image * s->in_h * s->in_w * s->in_c, &in, regular);
  // An output row is computed from parts if its inputs allow it, whatever rows the task has.
  int joined = 0;
  for (Conv2dTask some = *task; some.row0 < task->row1; some.row0 = some.row1) {
    int like = -1;
    for (some.row1 = some.row0; some.row1 < task->row1; ++some.row1) {
      int all = 1;
      for (int64_t ky = 0; ky < s->kernel_h; ++ky)
        all &= regular[(some.row1 - task->row0) * (flat ? 1 : s->stride_h) + ky * s->dilation_h];
      if (like >= 0 && like != all) break;
      like = all;
    }
    if (like) {
      (flat ? tiled_pixels : tiled_rows)(s, epilogue, &some, (const char*)weights, &in, out);
      continue;
    }
    float* floats = (float*)(own + at.weights);
    for (int64_t b = task->block0; b < task->block1 && !joined; ++b)
      join_block(s, b, (const uint16_t*)weights, floats);
    joined = 1;
    conv2d_avx512(s, floats, epilogue, x, out, &some, own + at.padded);
  }
}

void conv2d_amx(CONV2D_ARGUMENTS) {
  configure(ceil_div(shape->out_w, row_pieces(shape)));
  const auto rows = parts_merged(shape) ? merged_rows : plain_rows;
  rows(shape, weights, epilogue, x, out, task, scratch);
  _tile_release();
}
