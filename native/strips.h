// Strips of a sparse matrix (SparseStrips in kernels.h), made when a model is loaded.
#pragma once
#include <optional>
#include <vector>

#include "kernels.h"
#include "weights.h"

// The non-zeros of a weight, not owned: `positions` ascending in the flat order of its dense form; either kind of codes
// with a table, or neither and a table of one value per entry.
struct SparseEntries {
  int64_t count;
  const int64_t* positions;
  const uint8_t* codes8;
  const uint16_t* codes16;
  const float* table;
  int64_t table_size;

  bool coded() const { return codes8 || codes16; }
  int64_t code(int64_t e) const { return codes8 ? codes8[e] : codes16 ? codes16[e] : e; }
  float value(int64_t e) const { return table[code(e)]; }
};

class Strips {
 public:
  Strips(int64_t rows, int64_t cols, const SparseEntries& entries);
  // Steps of 16 slots; entries / (16 * steps) of them are used.
  int64_t steps() const { return 2 * static_cast<int64_t>(pairs_); }
  int64_t bytes() const;
  SparseStrips view() const;
  // Steps of all groups before each, and of all.
  std::vector<int64_t> steps_before() const;

  // Whether a matrix has a form that strips can take: not too wide, and a finite value for lanes without an entry.
  static bool possible(int64_t cols, const SparseEntries& entries);

 private:
  int64_t groups_, blocks_, table_size_;
  size_t pairs_;
  Aligned<int32_t> rows_;
  Aligned<uint32_t> starts_, slots_;
  Aligned<uint16_t> windows_;
  Aligned<float> table_;
};
