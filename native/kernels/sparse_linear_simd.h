// Sparse matrix product on codes. Include vec_<isa>.h first.
//
// Few samples: entries in the lanes, inputs gathered, codebook looked up in registers where it fits.
// More samples: samples in the lanes over a transposed input, so that a column and a code are looked up once for up to
// SPARSE_LANES products and nothing is gathered.
#pragma once
#include "transpose.h"

enum { FEW_SAMPLES = 2 };

static inline ints indices(const uint8_t* p) { return ints_u8(p); }
static inline ints indices(const uint16_t* p) { return ints_u16(p); }
static inline ints indices(const uint32_t* p) { return ints_u32(p); }

// Where the values of entries come from. One struct per way of storing them, with the same two members.
struct Floats {
  const float* values;
  inline vec many(int64_t e) const { return load(values + e); }
  inline float one(int64_t e) const { return values[e]; }
};
template <class Code>
struct Codebook {
  const Code* codes;
  const float* table;
  inline vec many(int64_t e) const { return gather(table, indices(codes + e)); }
  inline float one(int64_t e) const { return table[codes[e]]; }
};
template <class Code>
struct SmallCodebook {
  const Code* codes;
  const float* table;
  table_vec registers;
  inline vec many(int64_t e) const { return look_up(registers, indices(codes + e)); }
  inline float one(int64_t e) const { return table[codes[e]]; }
};

template <class Column, class Values>
static float row_product(const Values values, const Column* columns, const float* x, int64_t begin, int64_t end) {
  vec s0 = zero(), s1 = zero();
  int64_t e = begin;
  for (; e + 2 * LANES <= end; e += 2 * LANES) {
    s0 = fma(gather(x, indices(columns + e)), values.many(e), s0);
    s1 = fma(gather(x, indices(columns + e + LANES)), values.many(e + LANES), s1);
  }
  if (e + LANES <= end) {
    s0 = fma(gather(x, indices(columns + e)), values.many(e), s0);
    e += LANES;
  }
  if (e < end) s1 = fma(gather_first(x, indices(columns + e), end - e), keep_first(values.many(e), end - e), s1);
  return sum(add(s0, s1));
}

// sums[NV * LANES] = products of one row with as many transposed samples. xt: [cols][SPARSE_LANES].
template <int NV, class Column, class Values>
static void row_products(const Values values, const Column* columns, const float* xt, int64_t begin, int64_t end,
                         float* sums) {
  vec s0[NV], s1[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) s0[v] = s1[v] = zero();
  int64_t e = begin;
  for (; e + 2 <= end; e += 2) {
    const vec w0 = broadcast(values.one(e)), w1 = broadcast(values.one(e + 1));
    const float *x0 = xt + (int64_t)columns[e] * SPARSE_LANES, *x1 = xt + (int64_t)columns[e + 1] * SPARSE_LANES;
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) s0[v] = fma(w0, load(x0 + v * LANES), s0[v]);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) s1[v] = fma(w1, load(x1 + v * LANES), s1[v]);
  }
  if (e < end) {
    const vec w = broadcast(values.one(e));
    const float* v0 = xt + (int64_t)columns[e] * SPARSE_LANES;
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) s0[v] = fma(w, load(v0 + v * LANES), s0[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) store(sums + v * LANES, add(s0[v], s1[v]));
}

// As many registers at a time as their sums fit beside the operands. samples <= SPARSE_LANES; lanes past it are not used.
template <class Column, class Values>
static void row_all_samples(const Values values, const Column* columns, const float* xt, int64_t begin, int64_t end,
                            int64_t samples, float* sums) {
  int64_t n = 0;
  for (; n + 3 * LANES < samples; n += 4 * LANES) row_products<4>(values, columns, xt + n, begin, end, sums + n);
  for (; n + LANES < samples; n += 2 * LANES) row_products<2>(values, columns, xt + n, begin, end, sums + n);
  for (; n < samples; n += LANES) row_products<1>(values, columns, xt + n, begin, end, sums + n);
}

static float finish_one(const Epilogue* e, float y, int64_t row) {
  if (e->bias) y += e->bias[row];
  if (e->scale) {
    y *= e->scale[row];
    y += e->shift[row];
  }
  return e->relu && y < 0 ? 0 : y;
}

static void finish_many(const Epilogue* e, float* sums, int64_t samples, int64_t row) {
  for (int64_t n = 0; n < samples; n += LANES) {
    vec y = load(sums + n);
    if (e->bias) y = add(y, broadcast(e->bias[row]));
    if (e->scale) {
      y = mul(y, broadcast(e->scale[row]));
      y = add(y, broadcast(e->shift[row]));
    }
    if (e->relu) y = maximum(zero(), y);
    store(sums + n, y);
  }
}

template <class Column, class Values>
static void sparse_product(const Values values, const Column* columns, const SparseMatrix* m, const Epilogue* e,
                           const float* x, float* out, int64_t batch, const SparseTask* task, void* scratch) {
  const int64_t samples = task->n1 - task->n0;
  x += task->n0 * m->cols;
  out += task->n0 * m->rows;
  if (batch <= FEW_SAMPLES) {
    for (int64_t n = 0; n < samples; ++n)
      for (int64_t row = task->row0; row < task->row1; ++row)
        out[n * m->rows + row] = finish_one(
            e, row_product(values, columns, x + n * m->cols, m->row_start[row], m->row_start[row + 1]), row);
    return;
  }
  float* xt = (float*)scratch;
  float* sums = xt + m->cols * SPARSE_LANES;  // [SPARSE_OUT_ROWS][SPARSE_LANES]
  transpose(samples, m->cols, x, m->cols, xt, SPARSE_LANES);
  for (int64_t row = task->row0; row < task->row1; row += SPARSE_OUT_ROWS) {
    const int64_t rows = task->row1 - row < SPARSE_OUT_ROWS ? task->row1 - row : SPARSE_OUT_ROWS;
    for (int64_t r = 0; r < rows; ++r) {
      float* s = sums + r * SPARSE_LANES;
      row_all_samples(values, columns, xt, m->row_start[row + r], m->row_start[row + r + 1], samples, s);
      finish_many(e, s, samples, row + r);
    }
    transpose(rows, samples, sums, SPARSE_LANES, out + row, m->rows);
  }
}

template <class Column, class Code>
static void with_codes(const Code* codes, const Column* columns, const SparseMatrix* m, const Epilogue* e, const float* x,
                       float* out, int64_t batch, const SparseTask* task, void* scratch) {
  if (m->table_size <= TABLE_REGISTERS) {
    const SmallCodebook<Code> values = {codes, m->table, load_table(m->table, m->table_size)};
    return sparse_product(values, columns, m, e, x, out, batch, task, scratch);
  }
  const Codebook<Code> values = {codes, m->table};
  sparse_product(values, columns, m, e, x, out, batch, task, scratch);
}

template <class Column>
static void with_columns(const Column* columns, const SparseMatrix* m, const Epilogue* e, const float* x, float* out,
                         int64_t batch, const SparseTask* task, void* scratch) {
  if (m->codes8) return with_codes(m->codes8, columns, m, e, x, out, batch, task, scratch);
  if (m->codes16) return with_codes(m->codes16, columns, m, e, x, out, batch, task, scratch);
  const Floats values = {m->table};
  sparse_product(values, columns, m, e, x, out, batch, task, scratch);
}

static void sparse_linear(SPARSE_LINEAR_ARGUMENTS) {
  if (matrix->columns16) return with_columns(matrix->columns16, matrix, epilogue, x, out, batch, task, scratch);
  with_columns(matrix->columns32, matrix, epilogue, x, out, batch, task, scratch);
}
