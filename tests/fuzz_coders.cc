// Feeds random bytes and random tables to the native decoders; built with the address and undefined-behaviour sanitizers
// by test_packing_sanitizers.py. Exit status 0 and a line of counts, or the sanitizer's report.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "coders.h"

namespace {

std::mt19937 generator(1);
long refused = 0, decoded = 0;

size_t below(size_t limit) { return generator() % limit; }

std::vector<uint8_t> random_bytes() {
  std::vector<uint8_t> bytes(below(40));
  const bool sparse = below(3) == 0;
  for (auto& byte : bytes) byte = static_cast<uint8_t>(sparse ? generator() & generator() : generator());
  return bytes;
}

void count(const char* message) { ++(message ? refused : decoded); }

void huffman() {
  const auto bytes = random_bytes();
  std::vector<uint8_t> lengths(1 + below(20), 0);
  if (below(2)) {
    for (auto& length : lengths) length = static_cast<uint8_t>(below(14));
  } else {  // a complete code
    for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = static_cast<uint8_t>(std::min(i + 1, lengths.size() - 1));
  }
  std::vector<uint16_t> symbols(below(100));
  count(bitwright::huffman_decode(bytes.data(), bytes.size(), lengths.data(), lengths.size(), symbols.data(),
                                  symbols.size()));
}

void rans() {
  const auto bytes = random_bytes();
  const int precision = 8 + static_cast<int>(below(7));
  std::vector<uint16_t> frequencies(1 + below(20), 0);
  uint32_t left = 1u << precision;
  for (size_t i = 0; i + 1 < frequencies.size(); ++i) {
    frequencies[i] = static_cast<uint16_t>(below(left / 2 + 1));
    left -= frequencies[i];
  }
  frequencies.back() = static_cast<uint16_t>(left + (below(20) == 0));
  std::vector<uint16_t> symbols(below(100));
  count(bitwright::rans_decode(bytes.data(), bytes.size(), frequencies.data(), frequencies.size(), precision,
                               size_t{1} << below(4), symbols.data(), symbols.size()));
}

void context() {
  const auto bytes = random_bytes();
  bitwright::ContextShape shape{below(8), below(20), 0, static_cast<int>(below(14)) - 1, 0};
  shape.stride = below(shape.length + 1);
  shape.nonzeros = below(shape.lines * shape.length + 1);
  std::vector<int16_t> grid(shape.lines * shape.length), again(grid.size());
  count(bitwright::context_decode(bytes.data(), bytes.size(), shape, grid.data()));
  std::vector<uint8_t> encoded;  // whatever was decoded must survive a round trip
  bitwright::context_encode(grid.data(), shape, encoded);
  if (bitwright::context_decode(encoded.data(), encoded.size(), shape, again.data()) || again != grid) std::exit(2);
}

}  // namespace

int main() {
  for (int i = 0; i < 20000; ++i) huffman(), rans(), context();
  std::printf("%ld decoded, %ld refused\n", decoded, refused);
  return decoded && refused ? 0 : 1;
}
