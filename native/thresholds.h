// Sign bits straight from exact sums.
#pragma once
#include <cstdint>
#include <vector>

#include "codes.h"

// The sign of a sum is (sum >= at) != flip, for every sum that can occur.
struct Threshold {
  int64_t at;
  bool flip;
};

// Of each channel, derived from the very sequence of float operations that `e` asks for (a sign of the sum alone:
// neither residual nor second sums), by bisection of [low[o], high[o]], since every step of it is monotone. Empty if
// for some channel it is not: the sequence leaves the finite numbers, or a slope is negative.
std::vector<Threshold> find_thresholds(const SumEpilogue& e, const std::vector<int64_t>& low,
                                       const std::vector<int64_t>& high);
