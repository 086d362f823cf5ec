// Entropy coders of FORMAT.md section 5: coders.cc has Huffman and rANS, context.cc the context coder. Plain pointers
// in, plain pointers out; no Python, no exceptions.
//
// Every decoder is safe on any bytes: it reads at most `size` bytes, writes at most `count` symbols, and returns a
// message (a static string) when the bytes break a rule, nullptr when all is well. Encoders trust their caller, except
// that they return a message for a symbol without a code.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bitwright {

constexpr int kHuffmanMaxLength = 12;

const char* huffman_encode(const uint16_t* symbols, size_t count, const uint8_t* lengths, size_t alphabet,
                           std::vector<uint8_t>& out);
const char* huffman_decode(const uint8_t* data, size_t size, const uint8_t* lengths, size_t alphabet, uint16_t* symbols,
                           size_t count);

// `frequencies` sum to 2^precision, 8 <= precision <= 14; lanes is 1, 2, 4 or 8.
const char* rans_encode(const uint16_t* symbols, size_t count, const uint16_t* frequencies, size_t alphabet,
                        int precision, size_t lanes, std::vector<uint8_t>& out);
const char* rans_decode(const uint8_t* data, size_t size, const uint16_t* frequencies, size_t alphabet, int precision,
                        size_t lanes, uint16_t* symbols, size_t count);

// Context coder of section 5.5. `grid` are lines * length levels: 0, or a magnitude of 1 .. 2^magnitude_bits with its
// sign; magnitude_bits -1 means that a level is just 0 or 1. stride <= length, magnitude_bits <= 12.
struct ContextShape {
  size_t lines, length, stride;
  int magnitude_bits;
  size_t nonzeros;
};
void context_encode(const int16_t* grid, const ContextShape& shape, std::vector<uint8_t>& out);
const char* context_decode(const uint8_t* data, size_t size, const ContextShape& shape, int16_t* grid);

}  // namespace bitwright
