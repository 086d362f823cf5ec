#include "arguments.h"

void refuse(const std::string& message) { throw nb::value_error(message.c_str()); }

namespace {

// Sizes of one axis; products of two of them fit in 64 bits.
constexpr int64_t kMostPerAxis = (int64_t{1} << 31) - 1;
constexpr int64_t kMostElements = int64_t{1} << 48;

std::string type_text(nb::dlpack::dtype t) {
  const char* code = "type";
  switch (static_cast<nb::dlpack::dtype_code>(t.code)) {
    case nb::dlpack::dtype_code::Int: code = "int"; break;
    case nb::dlpack::dtype_code::UInt: code = "uint"; break;
    case nb::dlpack::dtype_code::Float: code = "float"; break;
    case nb::dlpack::dtype_code::Bool: code = "bool"; break;
    case nb::dlpack::dtype_code::Complex: code = "complex"; break;
    default: break;
  }
  return code + std::to_string(t.bits);
}

bool contiguous(const Array& a) {
  if (a.size() == 0) return true;
  int64_t expected = 1;
  for (size_t i = a.ndim(); i-- > 0;) {
    if (a.shape(i) != 1 && a.stride(i) != expected) return false;
    expected *= static_cast<int64_t>(a.shape(i));
  }
  return true;
}

}  // namespace

std::string shape_text(const Array& a) {
  std::string text = "(";
  for (size_t i = 0; i < a.ndim(); ++i) text += (i ? ", " : "") + std::to_string(a.shape(i));
  return text + ")";
}

const void* checked_data(const Array& a, nb::dlpack::dtype type, int rank, const char* name) {
  const std::string who = name;
  if (a.device_type() != nb::device::cpu::value) refuse(who + " is not in CPU memory, expected a NumPy array");
  if (a.dtype() != type) refuse(who + " has dtype " + type_text(a.dtype()) + ", expected " + type_text(type));
  if (rank >= 0 && static_cast<int>(a.ndim()) != rank)
    refuse(who + " has shape " + shape_text(a) + ", expected " + std::to_string(rank) + " dimensions");
  for (size_t i = 0; i < a.ndim(); ++i)
    if (static_cast<int64_t>(a.shape(i)) > kMostPerAxis)
      refuse(who + " has shape " + shape_text(a) + ", expected at most 2147483647 per axis");
  if (!contiguous(a)) refuse(who + " is not contiguous, expected C order; use numpy.ascontiguousarray");
  if (reinterpret_cast<uintptr_t>(a.data()) % (type.bits / 8) != 0)
    refuse(who + " is not aligned to its elements, expected a copy that is");
  return a.data();
}

const float* channel_data(const std::optional<Array>& a, int64_t length, const char* name) {
  if (!a) return nullptr;
  const float* values = data<float>(*a, 1, name);
  if (static_cast<int64_t>(a->shape(0)) != length)
    refuse(std::string(name) + " has shape " + shape_text(*a) + ", expected (" + std::to_string(length) + ")");
  return values;
}

int64_t product(int64_t a, int64_t b, const char* what) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result) || result > kMostElements)
    refuse(std::string(what) + " would have more than 2^48 elements");
  return result;
}

int64_t product(const std::vector<int64_t>& factors, const char* what) {
  int64_t result = 1;
  for (int64_t f : factors) result = product(result, f, what);
  return result;
}

void check_pair(Pair pair, int64_t least, const char* name) {
  for (int64_t v : {pair.first, pair.second})
    if (v < least || v > kMostPerAxis)
      refuse(std::string(name) + " is (" + std::to_string(pair.first) + ", " + std::to_string(pair.second) +
             "), expected at least " + std::to_string(least) + " and at most 2147483647 each");
}

void check_threads(int threads) {
  if (threads < 1 || threads > 1024) refuse("threads is " + std::to_string(threads) + ", expected 1 to 1024");
}
