// Bindings of the entropy coders. Checks arguments, releases the GIL, turns a coder's message into ValueError.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

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
template <typename Fill>
Result new_symbols(size_t count, Fill fill) {
  auto* memory = new uint16_t[count ? count : 1];
  nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<uint16_t*>(p); });
  const char* message;
  {
    nb::gil_scoped_release release;
    message = fill(memory);
  }
  check(message);
  return Result(memory, {count}, owner);
}

template <typename Fill>
nb::bytes new_bytes(Fill fill) {
  std::vector<uint8_t> out;
  const char* message;
  {
    nb::gil_scoped_release release;
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
  return new_symbols(count, [&, bytes = reinterpret_cast<const uint8_t*>(data.c_str()), size = data.size()](uint16_t* out) {
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
  return new_symbols(count, [&, bytes = reinterpret_cast<const uint8_t*>(data.c_str()), size = data.size()](uint16_t* out) {
    return bitwright::rans_decode(bytes, size, frequencies.data(), frequencies.size(), precision, lanes, out, count);
  });
}

}  // namespace

void bind_coders(nb::module_& m) {
  m.def("huffman_encode", &huffman_encode, nb::arg("symbols"), nb::arg("lengths"));
  m.def("huffman_decode", &huffman_decode, nb::arg("data"), nb::arg("lengths"), nb::arg("count"));
  m.def("rans_encode", &rans_encode, nb::arg("symbols"), nb::arg("frequencies"), nb::arg("precision"), nb::arg("lanes"));
  m.def("rans_decode", &rans_decode, nb::arg("data"), nb::arg("frequencies"), nb::arg("precision"), nb::arg("lanes"),
        nb::arg("count"));
}
