// Bindings of the entropy coders. Checks arguments, releases the GIL, turns a coder's message into ValueError.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "bind_unlocked.h"
#include "coders.h"

namespace nb = nanobind;
namespace {

using Symbols = nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Lengths = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Frequencies = nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, uint16_t, nb::ndim<1>>;

constexpr size_t kLargestAlphabet = 65536;

void check(const char* message) {
  if (message) throw nb::value_error(message);
}

void check_alphabet(size_t alphabet) {
  if (alphabet > kLargestAlphabet) throw nb::value_error("an alphabet has at most 65536 symbols");
}

// A new NumPy array that `fill` writes; it is freed if `fill` reports an error.
template <typename T, typename Fill>
nb::ndarray<nb::numpy, T, nb::ndim<1>> new_array(size_t count, Fill fill) {
  auto* memory = new T[count ? count : 1];
  nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  const char* message;
  {
    const Unlocked unlocked;
    message = fill(memory);
  }
  check(message);
  return {memory, {count}, owner};
}

template <typename Fill>
nb::bytes new_bytes(Fill fill) {
  std::vector<uint8_t> out;
  const char* message;
  {
    const Unlocked unlocked;
    message = fill(out);
  }
  check(message);
  return nb::bytes(out.data(), out.size());
}

nb::bytes huffman_encode(Symbols symbols, Lengths lengths) {
  check_alphabet(lengths.size());
  return new_bytes([&](std::vector<uint8_t>& out) {
    return bitwright::huffman_encode(symbols.data(), symbols.size(), lengths.data(), lengths.size(), out);
  });
}

Result huffman_decode(nb::bytes data, Lengths lengths, size_t count) {
  check_alphabet(lengths.size());
  // No code is shorter than a bit: refused before anything is allocated.
  if (count / 8 > data.size()) throw nb::value_error("Huffman payload is too short");
  return new_array<uint16_t>(
      count, [&, bytes = reinterpret_cast<const uint8_t*>(data.c_str()), size = data.size()](uint16_t* out) {
        return bitwright::huffman_decode(bytes, size, lengths.data(), lengths.size(), out, count);
      });
}

void check_rans(size_t alphabet, int precision, size_t lanes) {
  check_alphabet(alphabet);
  if (precision < 8 || precision > 14) throw nb::value_error("rANS precision is not 8..14");
  if (lanes != 1 && lanes != 2 && lanes != 4 && lanes != 8) throw nb::value_error("rANS lanes are not 1, 2, 4 or 8");
}

nb::bytes rans_encode(Symbols symbols, Frequencies frequencies, int precision, size_t lanes) {
  check_rans(frequencies.size(), precision, lanes);
  return new_bytes([&](std::vector<uint8_t>& out) {
    return bitwright::rans_encode(symbols.data(), symbols.size(), frequencies.data(), frequencies.size(), precision,
                                  lanes, out);
  });
}

Result rans_decode(nb::bytes data, Frequencies frequencies, int precision, size_t lanes, size_t count) {
  check_rans(frequencies.size(), precision, lanes);
  return new_array<uint16_t>(count, [&, bytes = reinterpret_cast<const uint8_t*>(data.c_str()),
                                     size = data.size()](uint16_t* out) {
    return bitwright::rans_decode(bytes, size, frequencies.data(), frequencies.size(), precision, lanes, out, count);
  });
}

using Grid = nb::ndarray<const int16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using GridResult = nb::ndarray<nb::numpy, int16_t, nb::ndim<1>>;

constexpr size_t kLargestGrid = size_t{1} << 26;

bitwright::ContextShape context_shape(size_t lines, size_t length, size_t stride, int magnitude_bits, size_t nonzeros) {
  if (length && lines > kLargestGrid / length) throw nb::value_error("a grid has at most 2^26 elements");
  if (length > kLargestGrid || stride > length) throw nb::value_error("the stride is at most the length of a line");
  if (magnitude_bits < -1 || magnitude_bits > 12) throw nb::value_error("magnitudes have at most 12 bits");
  if (nonzeros > lines * length) throw nb::value_error("more non-zeros than elements");
  return {lines, length, stride, magnitude_bits, nonzeros};
}

nb::bytes context_encode(Grid grid, size_t lines, size_t length, size_t stride, int magnitude_bits, size_t nonzeros) {
  const auto shape = context_shape(lines, length, stride, magnitude_bits, nonzeros);
  if (grid.size() != lines * length) throw nb::value_error("the grid does not have lines * length elements");
  const int largest = magnitude_bits < 0 ? 1 : 1 << magnitude_bits, smallest = magnitude_bits < 0 ? 0 : -largest;
  for (size_t i = 0; i < grid.size(); ++i)
    if (grid.data()[i] > largest || grid.data()[i] < smallest) throw nb::value_error("a level is out of range");
  return new_bytes([&](std::vector<uint8_t>& out) -> const char* {
    bitwright::context_encode(grid.data(), shape, out);
    return nullptr;
  });
}

GridResult context_decode(nb::bytes data, size_t lines, size_t length, size_t stride, int magnitude_bits,
                          size_t nonzeros) {
  const auto shape = context_shape(lines, length, stride, magnitude_bits, nonzeros);
  const auto* bytes = reinterpret_cast<const uint8_t*>(data.c_str());
  return new_array<int16_t>(lines * length, [&, bytes, size = data.size()](int16_t* out) {
    return bitwright::context_decode(bytes, size, shape, out);
  });
}

}  // namespace

void bind_coders(nb::module_& m) {
  m.def("huffman_encode", &huffman_encode, nb::arg("symbols"), nb::arg("lengths"));
  m.def("huffman_decode", &huffman_decode, nb::arg("data"), nb::arg("lengths"), nb::arg("count"));
  m.def("rans_encode", &rans_encode, nb::arg("symbols"), nb::arg("frequencies"), nb::arg("precision"),
        nb::arg("lanes"));
  m.def("rans_decode", &rans_decode, nb::arg("data"), nb::arg("frequencies"), nb::arg("precision"), nb::arg("lanes"),
        nb::arg("count"));
  m.def("context_encode", &context_encode, nb::arg("grid"), nb::arg("lines"), nb::arg("length"), nb::arg("stride"),
        nb::arg("magnitude_bits"), nb::arg("nonzeros"));
  m.def("context_decode", &context_decode, nb::arg("data"), nb::arg("lines"), nb::arg("length"), nb::arg("stride"),
        nb::arg("magnitude_bits"), nb::arg("nonzeros"));
}
