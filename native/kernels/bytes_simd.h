// Convolution of byte codes in register tiles. Include byte_step_<isa>.h first, which defines
//   word_weight: int8_t or int16_t, and WORD_CODES: how many codes a word of weights meets, 4 bytes or 2 of 16 bits;
//   dot(sum, x, w): sum + the products of the codes and weights of each lane's word, exactly;
//   settle(sum): what such sums are as one int32 for each lane;
// and define copy_codes(from, to, count): makes so many codes what the words meet.
#pragma once
#include "packed_weights.h"
#include "sums_simd.h"

typedef struct {
  // Input of the tile's first pixel; all steps in bytes.
  const uint8_t* x;
  int64_t row_step, pixel_step;
  int64_t kernel_h, tap_row_step, segments, segment_step, words;
  const uint32_t* weights;
  int64_t width;  // lanes of the block
  int32_t* sums;  // [pixels][SUM_LANES], from this pass's first lane on
  int resume;     // adds to the sums
} ByteTile;

// Pixel m of a row: see pixel_value in tile.h.
static const int ODD_MULTIPLES = 7;
static inline const uint8_t* pixel_at(const uint8_t* x, const int64_t* odd, int m) {
  if (m == 0) return x;
  const int k = __builtin_ctz(m);
  return x + (odd[(m >> k) / 2] << k);
}

// Words of weights that are asked for before they are needed.
static const int AHEAD = 8;

static inline ints broadcast_word(const uint8_t* p) {
  int32_t word;
  memcpy(&word, p, sizeof word);
  return ints_all(word);
}

template <bool DEPTHWISE, int NV, int RY, int RX>
static void byte_tile(const ByteTile* t) {
  ints sums[RY * RX][NV];
#pragma GCC unroll 64
  for (int m = 0; m < RY * RX; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) sums[m][v] = ints_zero();

  const uint32_t* w = t->weights;
  int64_t odd[ODD_MULTIPLES];
#pragma GCC unroll 7
  for (int i = 0; i < ODD_MULTIPLES; ++i) odd[i] = (2 * i + 1) * t->pixel_step;
  for (int64_t ky = 0; ky < t->kernel_h; ++ky) {
    for (int64_t g = 0; g < t->segments; ++g) {
      const uint8_t* x[RY];
#pragma GCC unroll 2
      for (int ry = 0; ry < RY; ++ry) x[ry] = t->x + ry * t->row_step + ky * t->tap_row_step + g * t->segment_step;
      for (int64_t c = 0; c < t->words; ++c) {
        // Without this the compiler would compute all multiples before the loop, and run out of registers.
#pragma GCC unroll 7
        for (int i = 0; i < RX / 2; ++i) __asm__("" : "+r"(odd[i]));
        ints weight[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) {
          weight[v] = ints_load(w + v * LANES);
          prefetch((const float*)w + v * LANES + AHEAD * SUM_LANES);
        }
        w += t->width;
#pragma GCC unroll 64
        for (int m = 0; m < RY * RX; ++m) {
          const uint8_t* p = pixel_at(x[m / RX], odd, m % RX);
          const ints value = DEPTHWISE ? ints_zero() : broadcast_word(p);
#pragma GCC unroll 2
          for (int v = 0; v < NV; ++v)
            sums[m][v] = dot(sums[m][v], DEPTHWISE ? ints_load(p + 4 * v * LANES) : value, weight[v]);
        }
#pragma GCC unroll 2
        for (int ry = 0; ry < RY; ++ry) x[ry] += sizeof(uint32_t);
      }
    }
  }
#pragma GCC unroll 64
  for (int m = 0; m < RY * RX; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      int32_t* const to = t->sums + m * SUM_LANES + v * LANES;
      const ints sum = settle(sums[m][v]);
      ints_store(to, t->resume ? ints_add(ints_load(to), sum) : sum);
    }
}

// The widest tile: half the sums in each of two rows, or all of them in one, but never more than 14 pixels.
static const int MAX_RX_ONE = TILE_SUMS / 2;

template <bool DEPTHWISE, int NV, int RY, int RX>
static void byte_tile_if(const ByteTile* t) {
  if constexpr (NV * RY * RX <= TILE_SUMS) byte_tile<DEPTHWISE, NV, RY, RX>(t);
}

template <bool DEPTHWISE, int NV, int RY>
static void byte_tile_of_width(int64_t rx, const ByteTile* t) {
  switch (rx) {
    case 1: return byte_tile_if<DEPTHWISE, NV, RY, 1>(t);
    case 2: return byte_tile_if<DEPTHWISE, NV, RY, 2>(t);
    case 3: return byte_tile_if<DEPTHWISE, NV, RY, 3>(t);
    case 4: return byte_tile_if<DEPTHWISE, NV, RY, 4>(t);
    case 5: return byte_tile_if<DEPTHWISE, NV, RY, 5>(t);
    case 6: return byte_tile_if<DEPTHWISE, NV, RY, 6>(t);
    case 7: return byte_tile_if<DEPTHWISE, NV, RY, 7>(t);
    case 8: return byte_tile_if<DEPTHWISE, NV, RY, 8>(t);
    case 9: return byte_tile_if<DEPTHWISE, NV, RY, 9>(t);
    case 10: return byte_tile_if<DEPTHWISE, NV, RY, 10>(t);
    case 11: return byte_tile_if<DEPTHWISE, NV, RY, 11>(t);
    case 12: return byte_tile_if<DEPTHWISE, NV, RY, 12>(t);
    case 13: return byte_tile_if<DEPTHWISE, NV, RY, 13>(t);
    case 14: return byte_tile_if<DEPTHWISE, NV, RY, 14>(t);
  }
}

template <bool DEPTHWISE>
static void byte_tile_of(int64_t registers, int64_t ry, int64_t rx, const ByteTile* t) {
  if (registers == 2)
    return ry == 2 ? byte_tile_of_width<DEPTHWISE, 2, 2>(rx, t) : byte_tile_of_width<DEPTHWISE, 2, 1>(rx, t);
  // AVX2 passes over 16 lanes at a time, and a block has no fewer.
  if constexpr (LANES == HALF_LANES)
    return ry == 2 ? byte_tile_of_width<DEPTHWISE, 1, 2>(rx, t) : byte_tile_of_width<DEPTHWISE, 1, 1>(rx, t);
}

// The input of a task: bytes as they are, or a copy in the scratch.
typedef struct {
  const uint8_t* first;  // where the window of output (image0, row0, 0) begins
  int64_t image, row, pixel;
} Source;

static Source task_source(const ByteConv* c, const uint8_t* x, const ByteTask* task, uint8_t* scratch) {
  const Conv2dShape* s = &c->shape;
  const int64_t pixel = code_pixel_units(&c->x), row = code_columns(&c->x) * pixel;
  const int64_t images = task->image1 - task->image0;
  Source r = {x + task->image0 * code_image_bytes(&c->x), code_image_bytes(&c->x), row, pixel};
  r.first += (c->x.top + task->row0 * s->stride_h - s->pad_h) * row + (c->x.left - s->pad_w) * pixel;
  const int copied = WORD_CODES == 2 || images > 1;
  if (!copied || c->depthwise) return r;
  // From the first byte of the window on; the last row ends where the image does. Between images a cache line more than
  // their size, as pixels of a tile that are a multiple of 4096 bytes apart would push each other out of the cache.
  const int64_t count = byte_input_rows(c, task->row1 - task->row0) * row - (c->x.left - s->pad_w) * pixel;
  const int64_t unit = 4 / WORD_CODES, step = (count + 63) / 64 * 64 + 64;
  for (int64_t n = 0; n < images; ++n) copy_codes(r.first + n * r.image, scratch + n * unit * step, count);
  return {scratch, unit * step, unit * row, unit * pixel};
}

// The sums of one block for the pixels of a tile: ry rows of rx pixels, or one row of the batch.
static void block_sums(const ByteConv* c, ByteTile* t, int64_t ry, int64_t rx) {
  const int64_t registers = t->width >= 2 * LANES ? 2 : 1;
  ByteTile pass = *t;
  for (int64_t lane = 0; lane < t->width; lane += registers * LANES) {
    pass.sums = t->sums + lane;
    pass.weights = t->weights + lane;
    if (c->depthwise) {
      pass.x = t->x + lane * sizeof(uint32_t);
      byte_tile_of<true>(registers, ry, rx, &pass);
    } else {
      byte_tile_of<false>(registers, ry, rx, &pass);
    }
  }
}

// A block of a linear layer with packed weights, for `images` images.
static void packed_block(const ByteConv* c, ByteTile t, int64_t block, int64_t images, uint32_t* expanded) {
  const uint8_t* x = t.x;
  const int64_t words = t.words, tiles = (images + MAX_RX_ONE - 1) / MAX_RX_ONE;
  int32_t* sums = t.sums;
  t.weights = expanded;
  for (int64_t word = 0; word < words; word += PACKED_WORDS) {
    t.words = words - word < PACKED_WORDS ? words - word : (int64_t)PACKED_WORDS;
    t.resume = word > 0;
    expand_words(c, block, t.width, words, word, t.words, (word_weight*)expanded);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t n0 = images * i / tiles, n1 = images * (i + 1) / tiles;
      t.x = x + n0 * t.pixel_step + word * sizeof(uint32_t);
      t.sums = sums + n0 * SUM_LANES;
      block_sums(c, &t, 1, n1 - n0);
    }
  }
}

static void byte_conv(BYTES_ARGUMENTS) {
  const ByteConv* c = conv;
  const Conv2dShape* s = &c->shape;
  const int storage = byte_code_storage(c, &epilogue->encode);
  clear_margins(epilogue, storage, task);
  ByteScratch* own = (ByteScratch*)scratch;
  const Source source = task_source(c, x, task, (uint8_t*)(own + 1));
  const int64_t unit = source.pixel / code_pixel_units(&c->x);  // bytes of a code
  ByteTile t;
  t.row_step = s->stride_h * source.row;
  t.kernel_h = s->kernel_h;
  t.tap_row_step = s->dilation_h * source.row;
  t.segments = byte_segments(c);
  t.segment_step = s->dilation_w * source.pixel;
  t.words = c->depthwise ? 1 : byte_segment_codes(c) / WORD_CODES;
  t.sums = own->sums;
  t.resume = 0;
  const int64_t taps = t.kernel_h * t.segments * t.words;
  // A row of the tile: pixels of a row, or of images.
  const Outputs outputs = task_outputs(c, epilogue, task);
  const int64_t length = outputs.across ? task->image1 - task->image0 : s->out_w;
  const int64_t step = outputs.across ? source.image : s->stride_w * source.pixel;
  t.pixel_step = step;
  for (int64_t b = task->block0; b < task->block1; ++b) {
    const int64_t group = b / byte_group_blocks(c), block = b % byte_group_blocks(c);
    const int64_t lane = group * byte_group_lanes(c) + block * SUM_LANES;
    const int64_t before = c->depthwise ? block * SUM_LANES * 4 : group * code_group_units(&c->x) * unit;
    const uint8_t* first = source.first + before;
    t.width = byte_block_lanes(c, block);
    if (c->bits) {
      PixelRun run;
      locate(&run, &outputs, lane, 0, 0);
      run.count = task->image1 - task->image0;
      run.sums = t.sums;
      t.x = first;
      packed_block(c, t, b, run.count, own->weights);
      finish_block(c, epilogue, storage, b, &run, 1);
      continue;
    }
    t.weights = (const uint32_t*)c->weights + lane * taps;
    const int64_t most = t.width >= 2 * LANES ? TILE_SUMS / 2 : TILE_SUMS;
    const int64_t widest = most < MAX_RX_ONE ? most : MAX_RX_ONE, tiles = (length + widest - 1) / widest;
    const int64_t wider = (length + tiles - 1) / tiles;
    for (int64_t y = task->row0; y < task->row1;) {
      const int64_t ry = 2 * wider <= most && y + 1 < task->row1 ? 2 : 1;
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t x0 = length * i / tiles, x1 = length * (i + 1) / tiles;
        PixelRun runs[2];
        for (int64_t j = 0; j < ry; ++j) {
          locate(runs + j, &outputs, lane, y + j, x0);
          runs[j].count = x1 - x0;
          runs[j].sums = t.sums + j * (x1 - x0) * SUM_LANES;
        }
        t.x = first + (y - task->row0) * t.row_step + x0 * step;
        block_sums(c, &t, ry, x1 - x0);
        finish_block(c, epilogue, storage, b, runs, ry);
      }
      y += ry;
    }
  }
}
