// Checks of what Python passes in. Each throws nb::value_error with what was found and what was expected.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nb = nanobind;

// Any array; the functions below ask more of it.
using Array = nb::ndarray<nb::ro>;
using Pair = std::pair<int64_t, int64_t>;

[[noreturn]] void refuse(const std::string& message);

std::string shape_text(const Array& a);

// The data of a contiguous array of this type and rank (-1: any).
const void* checked_data(const Array& a, nb::dlpack::dtype type, int rank, const char* name);
template <class T>
const T* data(const Array& a, int rank, const char* name) {
  return static_cast<const T*>(checked_data(a, nb::dtype<T>(), rank, name));
}
// A vector of `length` floats, or null if there is none.
const float* channel_data(const std::optional<Array>& a, int64_t length, const char* name);

// a * b, refused where it would not fit in memory anyway.
int64_t product(int64_t a, int64_t b, const char* what);
int64_t product(const std::vector<int64_t>& factors, const char* what);

void check_pair(Pair pair, int64_t least, const char* name);
void check_threads(int threads);
