#include "thresholds.h"

#include <cmath>
#include <limits>

#include "kernels/sums_ref.h"

std::vector<Threshold> find_thresholds(const SumEpilogue& e, const std::vector<int64_t>& low,
                                       const std::vector<int64_t>& high) {
  std::vector<Threshold> thresholds;
  for (size_t o = 0; e.prelu.slope && o < low.size(); ++o)
    if (!(e.prelu.slope[o] >= 0)) return {};
  for (size_t o = 0; o < low.size(); ++o) {
    const auto channel = static_cast<int64_t>(o);
    const auto value = [&](int64_t sum) { return sum_value(&e, static_cast<int32_t>(sum), 0, channel, 0); };
    const auto sign = [&](int64_t sum) { return encode_value(&e.encode, value(sum), channel) != 0; };
    // A number that is finite at both ends came from finite ones all along, and so did those between.
    for (int64_t end : {low[o], high[o]}) {
      const float y = value(end), z = e.encode.scale ? y * e.encode.scale[o] + e.encode.shift[o] : y;
      if (!std::isfinite(y) || !std::isfinite(z)) return {};
    }
    const bool first = sign(low[o]);
    if (first == sign(high[o])) {
      thresholds.push_back({std::numeric_limits<int32_t>::min(), !first});
      continue;
    }
    int64_t below = low[o], at = high[o];  // the sign of below is `first`, that of `at` is not
    while (at - below > 1) {
      const int64_t middle = below + (at - below) / 2;
      (sign(middle) == first ? below : at) = middle;
    }
    thresholds.push_back({at, first});
  }
  return thresholds;
}
