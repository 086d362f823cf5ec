// Sparse matrix product over strips (SparseStrips in kernels.h), AVX-512.
#pragma once
#include <immintrin.h>
#include <string.h>

#include "kernels.h"

// How a slot becomes values: one struct per way of storing them. `shifted` has the code of a slot in its lowest bits,
// with bits of its neighbour above; `step` numbers the steps.
struct StripTable32 {
  __m512 low, high;
  explicit StripTable32(const SparseStrips* s) : low(_mm512_loadu_ps(s->table)), high(_mm512_loadu_ps(s->table + 16)) {}
  inline __m512 at(__m512i shifted, int64_t) const { return _mm512_permutex2var_ps(low, shifted, high); }
};
struct StripTable64 {
  __m512 part[4];
  explicit StripTable64(const SparseStrips* s) {
    for (int i = 0; i < 4; ++i) part[i] = _mm512_loadu_ps(s->table + 16 * i);
  }
  inline __m512 at(__m512i shifted, int64_t) const {
    const __m512 low = _mm512_permutex2var_ps(part[0], shifted, part[1]);
    const __m512 high = _mm512_permutex2var_ps(part[2], shifted, part[3]);
    return _mm512_mask_mov_ps(low, _mm512_movepi32_mask(_mm512_slli_epi32(shifted, 26)), high);
  }
};
struct StripTable {
  const float* table;
  explicit StripTable(const SparseStrips* s) : table(s->table) {}
  inline __m512 at(__m512i shifted, int64_t) const {
    return _mm512_i32gather_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(STRIP_CODES - 1)), table, 4);
  }
};
struct StripValues {
  const float* values;
  explicit StripValues(const SparseStrips* s) : values(s->table) {}
  inline __m512 at(__m512i, int64_t step) const { return _mm512_loadu_ps(values + STRIP_ROWS * step); }
};

// The inputs of one step: a window of 64 places looked up by bits 0..4 and, in `upper`, bit 5.
static inline __m512 strip_inputs(const float* window, __m512i places, __mmask16 upper) {
  const __m512 low = _mm512_permutex2var_ps(_mm512_load_ps(window), places, _mm512_load_ps(window + 16));
  const __m512 high = _mm512_permutex2var_ps(_mm512_load_ps(window + 32), places, _mm512_load_ps(window + 48));
  return _mm512_mask_mov_ps(low, upper, high);
}

// The sums of one group for N samples; even and odd steps have their own, so that one needn't wait for the other.
template <int N>
struct StripSums {
  __m512 even[N], odd[N];
};

// One pair of steps. x: N samples, `sample` floats apart.
template <int N, class Values>
static inline void strip_pair(const SparseStrips* s, const Values& values, int64_t pair, const float* x, int64_t sample,
                              StripSums<N>* sums) {
  enum { AHEAD = 32 };  // pairs to fetch ahead
  const __m512i a = _mm512_load_si512(s->slots + 16 * pair), b = _mm512_srli_epi32(a, 16);
  _mm_prefetch((const char*)(s->slots + 16 * (pair + AHEAD)), _MM_HINT_T0);
  const __m512 va = values.at(_mm512_srli_epi32(a, 5), 2 * pair),
               vb = values.at(_mm512_srli_epi32(a, 21), 2 * pair + 1);
  const __mmask16 ua = _mm512_movepi32_mask(_mm512_slli_epi32(a, 16)), ub = _mm512_movepi32_mask(a);
  const float *xa = x + STRIP_UNIT * s->windows[2 * pair], *xb = x + STRIP_UNIT * s->windows[2 * pair + 1];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) {
    sums->even[n] = _mm512_fmadd_ps(strip_inputs(xa + n * sample, a, ua), va, sums->even[n]);
    sums->odd[n] = _mm512_fmadd_ps(strip_inputs(xb + n * sample, b, ub), vb, sums->odd[n]);
  }
}

// sums[N][16] of each of P groups, `apart` groups apart, += their pairs. Several groups at once read several streams of
// slots, which the memory hands out faster than one.
template <int N, int P, class Values>
static inline void strip_products(const SparseStrips* s, const Values& values, const uint32_t* starts, int64_t apart,
                                  const float* x, int64_t sample, float* sums) {
  StripSums<N> sum[P];
  uint32_t common = UINT32_MAX;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    const uint32_t count = starts[p * apart + 1] - starts[p * apart];
    common = count < common ? count : common;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      sum[p].even[n] = _mm512_load_ps(sums + (p * apart * N + n) * STRIP_ROWS);
      sum[p].odd[n] = _mm512_setzero_ps();
    }
  }
  for (uint32_t i = 0; i < common; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) strip_pair<N>(s, values, starts[p * apart] + i, x, sample, &sum[p]);
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    for (uint32_t pair = starts[p * apart] + common; pair < starts[p * apart + 1]; ++pair)
      strip_pair<N>(s, values, pair, x, sample, &sum[p]);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
      _mm512_store_ps(sums + (p * apart * N + n) * STRIP_ROWS, _mm512_add_ps(sum[p].even[n], sum[p].odd[n]));
  }
}

static void strip_finish(const Epilogue* e, const int32_t* rows, const float* sums, float* out) {
  const __m512i row = _mm512_loadu_si512(rows);
  const __mmask16 some = _mm512_cmpge_epi32_mask(row, _mm512_setzero_si512());
  const __m512 none = _mm512_setzero_ps();
  __m512 y = _mm512_load_ps(sums);
  if (e->bias) y = _mm512_add_ps(y, _mm512_mask_i32gather_ps(none, some, row, e->bias, 4));
  if (e->scale) {
    y = _mm512_mul_ps(y, _mm512_mask_i32gather_ps(none, some, row, e->scale, 4));
    y = _mm512_add_ps(y, _mm512_mask_i32gather_ps(none, some, row, e->shift, 4));
  }
  if (e->relu) y = _mm512_max_ps(none, y);
  _mm512_mask_i32scatter_ps(out, some, row, y, 4);
}

// N samples: block after block of columns, so that their inputs stay in the first-level cache while all groups pass
// over them.
template <int N, class Values>
static void strip_samples(const SparseMatrix* m, const Values& values, const Epilogue* e, const float* x,
                          int64_t sample, float* out, int64_t group0, int64_t group1, float* sums) {
  enum { P = N <= 2 ? 4 : 1 };
  const SparseStrips* s = m->strips;
  const int64_t apart = (group1 - group0) / P;
  memset(sums, 0, (group1 - group0) * N * STRIP_ROWS * sizeof(float));
  for (int64_t block = 0; block < s->blocks; ++block) {
    const uint32_t* starts = s->starts + block * s->groups;
    for (int64_t g = group0; g < group0 + apart; ++g)
      strip_products<N, P>(s, values, starts + g, apart, x, sample, sums + (g - group0) * N * STRIP_ROWS);
    for (int64_t g = group0 + P * apart; g < group1; ++g)
      strip_products<N, 1>(s, values, starts + g, 0, x, sample, sums + (g - group0) * N * STRIP_ROWS);
  }
  for (int64_t g = group0; g < group1; ++g)
    for (int n = 0; n < N; ++n)
      strip_finish(e, s->rows + g * STRIP_ROWS, sums + ((g - group0) * N + n) * STRIP_ROWS, out + n * m->rows);
}

// Every 15 columns get a zero after them; what lies beyond the last column is zero too.
static void strip_spread(const float* x, int64_t cols, int64_t units, float* to) {
  for (int64_t unit = 0; unit < units; ++unit) {
    const int64_t left = cols - unit * STRIP_COLUMNS;
    const __mmask16 some = left >= STRIP_COLUMNS ? 0x7fff : left > 0 ? (1 << left) - 1 : 0;
    _mm512_store_ps(to + unit * STRIP_UNIT, _mm512_maskz_loadu_ps(some, x + unit * STRIP_COLUMNS));
  }
}

template <class Values>
static void strips_with(const SparseMatrix* m, const Epilogue* e, const float* x, float* out, const SparseTask* task,
                        void* scratch) {
  const Values values(m->strips);
  const int64_t group0 = task->row0 / STRIP_ROWS, group1 = (task->row1 + STRIP_ROWS - 1) / STRIP_ROWS;
  const int64_t units = strip_units(m->cols), sample = units * STRIP_UNIT;
  float *spread = (float*)scratch, *sums = spread + sample * STRIP_SAMPLES;
  for (int64_t n = task->n0; n < task->n1; ++n)
    strip_spread(x + n * m->cols, m->cols, units, spread + (n - task->n0) * sample);
  for (int64_t n = task->n0; n < task->n1;) {
    const int64_t left = task->n1 - n;
    const float* from = spread + (n - task->n0) * sample;
    float* to = out + n * m->rows;
    if (left >= 8)
      strip_samples<8>(m, values, e, from, sample, to, group0, group1, sums), n += 8;
    else if (left >= 4)
      strip_samples<4>(m, values, e, from, sample, to, group0, group1, sums), n += 4;
    else if (left >= 2)
      strip_samples<2>(m, values, e, from, sample, to, group0, group1, sums), n += 2;
    else
      strip_samples<1>(m, values, e, from, sample, to, group0, group1, sums), n += 1;
  }
}

static void sparse_strips(const SparseMatrix* m, const Epilogue* e, const float* x, float* out, const SparseTask* task,
                          void* scratch) {
  const int64_t size = m->strips->table_size;
  if (size == 0) return strips_with<StripValues>(m, e, x, out, task, scratch);
  if (size <= 32) return strips_with<StripTable32>(m, e, x, out, task, scratch);
  if (size <= 64) return strips_with<StripTable64>(m, e, x, out, task, scratch);
  strips_with<StripTable>(m, e, x, out, task, scratch);
}
