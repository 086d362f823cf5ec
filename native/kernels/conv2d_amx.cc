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

// The parts of `count` floats into three planes, `plane` numbers apart. Whether all are of a size that parts can have.
static int split_row(const float* x, int64_t count, uint16_t* out, int64_t plane) {
  uint16_t odd[32];
  for (int i = 0; i < 32; ++i) odd[i] = (uint16_t)(2 * i + 1);
  const __m512i high_halves = _mm512_loadu_si512(odd), size = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
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

template <int NA, int NB>
static inline void multiply_tiles(void) {
  _tile_dpbf16ps(0, 4, 6);
  if (NB > 1) _tile_dpbf16ps(1, 4, 7);
  if (NA > 1) _tile_dpbf16ps(2, 5, 6);
  if (NA > 1 && NB > 1) _tile_dpbf16ps(3, 5, 7);
}

// NA tiles of pixels by NB tiles of channels: sums in registers 0 to 3, pixels in 4 and 5, weights in 6 and 7.
template <int NA, int NB>
static void add_products(const AmxTile* t) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const char* w = t->weights + t->ky0 * t->chunks * PARTS * NB * TILE_BYTES;
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
      pixels(2), weights(0), multiply_tiles<NA, NB>();
      pixels(1), multiply_tiles<NA, NB>();
      weights(1), multiply_tiles<NA, NB>();
      pixels(0), multiply_tiles<NA, NB>();
      weights(2), multiply_tiles<NA, NB>();
      weights(0), multiply_tiles<NA, NB>();
    }
  }
}

static void store_sums(const AmxTile* t) {
  const int64_t step = BLOCK * sizeof(float);
  _tile_stored(0, t->sums, step);
  _tile_stored(1, t->sums + 16, step);
  _tile_stored(2, t->sums + PIECE_SUMS, step);
  _tile_stored(3, t->sums + PIECE_SUMS + 16, step);
}

// Sums of neighbouring pixels that wait to be finished.
typedef struct {
  Tile tile;
  const float* sums;
  int64_t pixels;
} Piece;

static void finish_piece(Piece* p) {
  for (int64_t i = 0; i < p->pixels; ++i) {
    vec sums[1][2] = {{load(p->sums + i * BLOCK), load(p->sums + i * BLOCK + LANES)}};
    finish_tile<2, 1>(&p->tile, sums, [](int) { return (int64_t)0; });
    p->tile.out += p->tile.out_pixel_step;
    p->tile.epilogue.residual = advance(p->tile.epilogue.residual, p->tile.out_pixel_step);
  }
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

// Rows [row0, row1) of the output. Pieces of a row have one length: the last repeats some pixels of the one before it.
static void tiled_rows(const Conv2dShape* s, const Epilogue* e, const Conv2dTask* task, const char* weights,
                       const SplitRows* in, float* out) {
  AmxTile t;
  t.pixel_step = s->stride_w * s->in_c * 2;
  t.row_step = s->dilation_h * in->row_bytes;
  t.plane = in->plane;
  t.chunks = parts_chunks(s);
  const int64_t pieces = ceil_div(s->out_w, TILE_PIXELS), length = ceil_div(s->out_w, pieces);
  const int64_t count = (task->row1 - task->row0) * pieces;
  configure(length);
  for (int64_t b = task->block0; b < task->block1; ++b) {
    const int wide = block_width(s->out_c, b) == BLOCK;
    t.weights = weights + 2 * b * s->kernel_h * t.chunks * PARTS * TILE_BYTES;
    // While the products of a pair of pieces are summed, the pair before it is finished.
    Piece both[2][2];
    int before = 0, turn = 0;
    for (int64_t i = 0; i < count; turn ^= 1) {
      const KernelRows own = kernel_rows(s, task->row0 + i / pieces), next = kernel_rows(s, task->row0 + (i + 1) / pieces);
      const int now = i + 1 < count && own.begin == next.begin && own.end == next.end ? 2 : 1;
      t.ky0 = own.begin;
      t.ky1 = own.end;
      t.sums = in->sums + turn * 2 * PIECE_SUMS;
      for (int j = 0; j < now; ++j) {
        const int64_t oy = task->row0 + (i + j) / pieces, x = (i + j) % pieces * length;
        const int64_t repeated = x + length > s->out_w ? x + length - s->out_w : 0;
        t.x[j] = in->rows + (oy - in->row0) * s->stride_h * in->row_bytes + (x - repeated) * t.pixel_step;
        Piece* p = &both[turn][j];
        p->sums = t.sums + j * PIECE_SUMS + repeated * BLOCK;
        p->pixels = length - repeated;
        locate(s, e, task->image, oy, x, b * BLOCK, out, p);
      }
      if (wide)
        now == 2 ? add_products<2, 2>(&t) : add_products<1, 2>(&t);
      else
        now == 2 ? add_products<2, 1>(&t) : add_products<1, 1>(&t);
      for (int j = 0; j < before; ++j) finish_piece(&both[turn ^ 1][j]);
      store_sums(&t);
      before = now;
      i += now;
    }
    for (int j = 0; j < before; ++j) finish_piece(&both[turn ^ 1][j]);
  }
  _tile_release();
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

void conv2d_amx(CONV2D_ARGUMENTS) {
  const Conv2dShape* s = shape;
  const PartsScratch at = parts_scratch(s, task->row1 - task->row0);
  const int64_t inner = s->in_w * s->in_c, border = s->pad_w * s->in_c, plane = parts_plane(s);
  const int64_t inputs = conv2d_input_rows(s, task->row1 - task->row0), top = task->row0 * s->stride_h - s->pad_h;
  char* own = (char*)scratch;
  const SplitRows in = {own + at.rows, (float*)(own + at.sums), task->row0, PARTS * plane, plane};
  uint8_t* regular = (uint8_t*)own + at.regular;
  for (int64_t r = 0; r < inputs; ++r) {
    regular[r] = 1;
    if (top + r < 0 || top + r >= s->in_h) continue;  // no tile reads it
    for (int p = 0; p < PARTS; ++p) {
      char* row = in.rows + r * in.row_bytes + p * plane;
      memset(row, 0, 2 * border);
      memset(row + 2 * (border + inner), 0, plane - 2 * (border + inner));
    }
    uint16_t* row = (uint16_t*)(in.rows + r * in.row_bytes) + border;
    regular[r] = (uint8_t)split_row(x + (task->image * s->in_h + top + r) * inner, inner, row, plane / 2);
  }
  // An output row is computed from parts if its inputs allow it, whatever rows the task has.
  int joined = 0;
  for (Conv2dTask some = *task; some.row0 < task->row1; some.row0 = some.row1) {
    int like = -1;
    for (some.row1 = some.row0; some.row1 < task->row1; ++some.row1) {
      int all = 1;
      for (int64_t ky = 0; ky < s->kernel_h; ++ky)
        all &= regular[(some.row1 - task->row0) * s->stride_h + ky * s->dilation_h];
      if (like >= 0 && like != all) break;
      like = all;
    }
    if (like) {
      tiled_rows(s, epilogue, &some, (const char*)weights, &in, out);
      continue;
    }
    float* floats = (float*)(own + at.weights);
    for (int64_t b = task->block0; b < task->block1 && !joined; ++b)
      join_block(s, b, (const uint16_t*)weights, floats);
    joined = 1;
    conv2d_avx512(s, floats, epilogue, x, out, &some, own + at.padded);
  }
}
