#include "strips.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "ceil_div.h"

namespace {

// The inputs of a block, 15 of 16 used, for a few samples: part of a first-level cache.
constexpr int64_t kBlockUnits = 128;
constexpr int kPadPlace = STRIP_COLUMNS;  // of the zero in the first register of a window


// The codebook as the kernel holds it: as many entries as it has registers for.
int64_t table_entries(int64_t size) { return size <= 32 ? 32 : size <= 64 ? 64 : STRIP_CODES; }

// A code whose value may be multiplied by zero; -1 if there is none.
int64_t finite_code(const SparseEntries& e) {
  for (int64_t c = 0; c < e.table_size; ++c)
    if (std::isfinite(e.table[c])) return c;
  return -1;
}

bool in_table(const SparseEntries& e) { return e.coded() && e.table_size <= STRIP_CODES; }

uint16_t make_slot(int64_t place, int64_t code) {
  return static_cast<uint16_t>((place & 31) | code << 5 | (place >> 5) << 15);
}

// Slots of 16 lanes, step after step.
struct Steps {
  std::vector<std::array<uint16_t, STRIP_ROWS>> slots;
  std::vector<std::array<float, STRIP_ROWS>> values;
  std::vector<uint16_t> windows;
};

// One lane: the entries [next, end) of its row.
struct Lane {
  int64_t next, end, first_column;  // first_column: flat position of the row
};

// Takes all entries before column `limit`. Always the lowest window that any lane needs.
void take_block(std::array<Lane, STRIP_ROWS>& lanes, int64_t limit, const SparseEntries& e, int64_t pad_code,
                Steps* steps) {
  const bool table = in_table(e);
  for (;;) {
    int64_t lowest = limit;
    for (const Lane& lane : lanes)
      if (lane.next < lane.end) lowest = std::min(lowest, e.positions[lane.next] - lane.first_column);
    if (lowest == limit) break;
    const int64_t window = lowest / STRIP_COLUMNS;
    const int64_t end = std::min(limit, (window + STRIP_WINDOW) * STRIP_COLUMNS);
    std::array<uint16_t, STRIP_ROWS> slots;
    std::array<float, STRIP_ROWS> values;
    for (int l = 0; l < STRIP_ROWS; ++l) {
      Lane& lane = lanes[l];
      const int64_t column = lane.next < lane.end ? e.positions[lane.next] - lane.first_column : end;
      slots[l] = make_slot(kPadPlace, pad_code);
      values[l] = 0;
      if (column >= end) continue;
      const int64_t place = (column / STRIP_COLUMNS - window) * STRIP_UNIT + column % STRIP_COLUMNS;
      slots[l] = make_slot(place, table ? e.code(lane.next) : 0);
      values[l] = e.value(lane.next++);
    }
    steps->slots.push_back(slots);
    if (!table) steps->values.push_back(values);
    steps->windows.push_back(static_cast<uint16_t>(window));
  }
  if (steps->slots.size() % 2 == 0) return;
  steps->slots.emplace_back().fill(make_slot(kPadPlace, pad_code));
  if (!table) steps->values.emplace_back().fill(0);
  steps->windows.push_back(steps->windows.back());
}

}  // namespace

bool Strips::possible(int64_t cols, const SparseEntries& e) {
  return strip_units(cols) <= 65536 && (!in_table(e) || finite_code(e) >= 0);
}

Strips::Strips(int64_t rows, int64_t cols, const SparseEntries& e)
    : groups_(ceil_div(rows, STRIP_ROWS)),
      blocks_(ceil_div(cols, kBlockUnits * STRIP_COLUMNS)),
      table_size_(in_table(e) ? table_entries(e.table_size) : 0),
      rows_(groups_ * STRIP_ROWS),
      starts_(blocks_ * groups_ + 1) {
  std::vector<int64_t> first(rows + 1);
  for (int64_t row = 0; row <= rows; ++row)
    first[row] = std::lower_bound(e.positions, e.positions + e.count, row * cols) - e.positions;
  std::vector<int32_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return first[a + 1] - first[a] > first[b + 1] - first[b]; });
  order.resize(groups_ * STRIP_ROWS, -1);
  std::copy(order.begin(), order.end(), rows_.data());

  std::vector<std::array<Lane, STRIP_ROWS>> lanes(groups_);
  for (size_t i = 0; i < order.size(); ++i) {
    const int32_t row = order[i];
    lanes[i / STRIP_ROWS][i % STRIP_ROWS] = row < 0 ? Lane{0, 0, 0} : Lane{first[row], first[row + 1], row * cols};
  }
  const int64_t pad_code = in_table(e) ? finite_code(e) : 0;
  Steps steps;
  for (int64_t block = 0; block < blocks_; ++block) {
    const int64_t limit = std::min(cols, (block + 1) * kBlockUnits * STRIP_COLUMNS);
    for (int64_t g = 0; g < groups_; ++g) {
      take_block(lanes[g], limit, e, pad_code, &steps);
      starts_.data()[block * groups_ + g + 1] = static_cast<uint32_t>(steps.slots.size() / 2);
    }
  }
  pairs_ = steps.slots.size() / 2;
  slots_ = Aligned<uint32_t>(pairs_ * STRIP_ROWS);
  for (size_t pair = 0; pair < pairs_; ++pair)
    for (int l = 0; l < STRIP_ROWS; ++l)
      slots_.data()[pair * STRIP_ROWS + l] =
          steps.slots[2 * pair][l] | static_cast<uint32_t>(steps.slots[2 * pair + 1][l]) << 16;
  windows_ = Aligned<uint16_t>(2 * pairs_);
  std::copy(steps.windows.begin(), steps.windows.end(), windows_.data());
  table_ = Aligned<float>(in_table(e) ? table_size_ : 2 * pairs_ * STRIP_ROWS);
  if (in_table(e))
    std::copy_n(e.table, e.table_size, table_.data());
  else if (pairs_)
    std::copy_n(steps.values[0].data(), 2 * pairs_ * STRIP_ROWS, table_.data());
}

SparseStrips Strips::view() const {
  return {groups_, blocks_, rows_.data(), starts_.data(), windows_.data(), slots_.data(), table_.data(), table_size_};
}

int64_t Strips::bytes() const {
  return rows_.bytes() + starts_.bytes() + slots_.bytes() + windows_.bytes() + table_.bytes();
}

std::vector<int64_t> Strips::steps_before() const {
  std::vector<int64_t> before(groups_ + 1, 0);
  const uint32_t* starts = starts_.data();
  for (int64_t i = 0; i < blocks_ * groups_; ++i) before[i % groups_ + 1] += 2 * (int64_t{starts[i + 1]} - starts[i]);
  for (int64_t g = 0; g < groups_; ++g) before[g + 1] += before[g];
  return before;
}
