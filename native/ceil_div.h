// Division of whole numbers, 0 or more, that rounds up: how many parts of size b cover a.
#pragma once
#include <cstdint>

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
