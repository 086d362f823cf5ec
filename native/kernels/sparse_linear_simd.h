// Sparse matrix product on codes. Include vec_<isa>.h first.
//
// Few samples: entries in the lanes, inputs gathered, codebook looked up in registers where it fits.
// More samples: samples in the lanes over a transposed input, so that a column and a code are looked up once for up to
// SPARSE_LANES products and nothing is gathered.
#pragma once
#include <string.h>

#include "transpose.h"

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

// sums[NV * LANES] += products of entries [begin, end) with as many samples. xt: [SPARSE_COLUMNS][SPARSE_LANES], the
// inputs from column `first` on.
template <int NV, class Column, class Values>
static inline void add_products(const Values& values, const Column* columns, int64_t first, const float* xt,
                                int64_t begin, int64_t end, float* sums) {
  vec s[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v) s[v] = load(sums + v * LANES);
  for (int64_t e = begin; e < end; ++e) {
    const vec w = broadcast(values.one(e));
    const float* x = xt + ((int64_t)columns[e] - first) * SPARSE_LANES;
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) s[v] = fma(w, load(x + v * LANES), s[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v) store(sums + v * LANES, s[v]);
}

// sums: [rows of the task][SPARSE_LANES], one block of columns added.
template <int NV, class Column, class Values>
static void add_block(const Values& values, const Column* columns, const SparseMatrix* m, int64_t block,
                      const SparseTask* task, const float* xt, float* sums) {
  const uint32_t* run = m->starts + block * m->block_step + task->row0 * m->row_step;
  for (int64_t row = task->row0; row < task->row1; ++row, run += m->row_step, sums += SPARSE_LANES)
    add_products<NV>(values, columns, block * SPARSE_COLUMNS, xt, run[0], run[1], sums);
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
  if (batch <= SPARSE_FEW) {
    for (int64_t n = 0; n < samples; ++n)
      for (int64_t row = task->row0; row < task->row1; ++row)
        out[n * m->rows + row] = finish_one(
            e, row_product(values, columns, x + n * m->cols, sparse_begin(m, row), sparse_end(m, row)), row);
    return;
  }
  const int64_t rows = task->row1 - task->row0;
  float *xt = (float*)scratch, *sums = xt + SPARSE_COLUMNS * SPARSE_LANES;
  memset(sums, 0, rows * SPARSE_LANES * sizeof(float));
  // Lanes past the last sample compute on whatever is there; nobody looks at them.
  memset(xt, 0, SPARSE_COLUMNS * SPARSE_LANES * sizeof(float));
  // Block after block of columns: the inputs of one stay in the first-level cache while all rows pass over them.
  for (int64_t block = 0; block < m->column_blocks; ++block) {
    const int64_t first = block * SPARSE_COLUMNS, left = m->cols - first, most = SPARSE_COLUMNS;
    transpose(samples, left < most ? left : most, x + first, m->cols, xt, SPARSE_LANES);
    for (int64_t n = 0; n < samples;) {
      if (samples - n > 2 * LANES)
        add_block<4>(values, columns, m, block, task, xt + n, sums + n), n += 4 * LANES;
      else if (samples - n > LANES)
        add_block<2>(values, columns, m, block, task, xt + n, sums + n), n += 2 * LANES;
      else
        add_block<1>(values, columns, m, block, task, xt + n, sums + n), n += LANES;
    }
  }
  for (int64_t row = 0; row < rows; row += SPARSE_OUT_ROWS) {
    const int64_t left = rows - row, most = SPARSE_OUT_ROWS, some = left < most ? left : most;
    for (int64_t r = row; r < row + some; ++r) finish_many(e, sums + r * SPARSE_LANES, samples, task->row0 + r);
    transpose(some, samples, sums + row * SPARSE_LANES, SPARSE_LANES, out + task->row0 + row, m->rows);
  }
}

template <class Column, class Code>
static void with_codes(const Code* codes, const Column* columns, const SparseMatrix* m, const Epilogue* e,
                       const float* x, float* out, int64_t batch, const SparseTask* task, void* scratch) {
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
