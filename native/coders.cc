// Huffman and static rANS, as FORMAT.md sections 5.3 and 5.4 lay them out.
#include "coders.h"

#include <cstring>

namespace bitwright {
namespace {

constexpr size_t kTableSize = size_t{1} << kHuffmanMaxLength;
constexpr uint32_t kRansFloor = 1u << 16;  // every state stays in [2^16, 2^32)

struct HuffmanEntry {
  uint16_t symbol;
  uint16_t length;
};
static_assert(sizeof(HuffmanEntry) == 4, "the look-up table is 16 KiB and stays in the first-level cache");

struct RansEntry {
  uint16_t symbol;
  uint16_t frequency;
  uint16_t offset;  // slot - start of the symbol
  uint16_t unused;
};
static_assert(sizeof(RansEntry) == 8, "one load per symbol");

uint64_t load_big_endian(const uint8_t* p) {
  uint64_t value;
  std::memcpy(&value, p, 8);
  return __builtin_bswap64(value);
}

uint32_t load_u32(const uint8_t* p) {
  return uint32_t{p[0]} | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
}

// Canonical codes from lengths. Returns the number of symbols that have one, or -1 if Kraft's equality is broken
// (a single symbol of length 1 is allowed).
int canonical_codes(const uint8_t* lengths, size_t alphabet, std::vector<uint16_t>& codes) {
  uint32_t per_length[kHuffmanMaxLength + 1] = {0};
  int used = 0;
  for (size_t s = 0; s < alphabet; ++s) {
    if (lengths[s] > kHuffmanMaxLength) return -1;
    if (lengths[s]) ++per_length[lengths[s]], ++used;
  }
  uint32_t next[kHuffmanMaxLength + 1] = {0};
  uint64_t kraft = 0;
  uint32_t code = 0;
  for (int l = 1; l <= kHuffmanMaxLength; ++l) {
    code = (code + (l > 1 ? per_length[l - 1] : 0)) << 1;
    next[l] = code;
    kraft += uint64_t{per_length[l]} << (kHuffmanMaxLength - l);
  }
  const bool single = used == 1 && per_length[1] == 1;
  if (kraft != kTableSize && !single) return -1;
  codes.assign(alphabet, 0);
  for (size_t s = 0; s < alphabet; ++s)
    if (lengths[s]) codes[s] = static_cast<uint16_t>(next[lengths[s]]++);
  return used;
}

void fill_table(const uint8_t* lengths, const std::vector<uint16_t>& codes, HuffmanEntry* table) {
  for (size_t s = 0; s < codes.size(); ++s) {
    if (!lengths[s]) continue;
    const int free_bits = kHuffmanMaxLength - lengths[s];
    const size_t first = size_t{codes[s]} << free_bits;
    for (size_t i = 0; i < (size_t{1} << free_bits); ++i)
      table[first + i] = {static_cast<uint16_t>(s), lengths[s]};
  }
}

// Up to 8 bytes at `bit` / 8, aligned so that the wanted bit is the highest; beyond the end there are zeros.
uint64_t peek_tail(const uint8_t* data, size_t size, size_t bit) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) {
    const size_t byte = bit / 8 + i;
    value = value << 8 | (byte < size ? data[byte] : 0);
  }
  return value << (bit % 8);
}

// True if the code bits end in the last byte and the rest of it is zero.
bool ends_clean(const uint8_t* data, size_t size, size_t bit) {
  if (bit > size * 8 || size * 8 - bit > 7) return false;
  return bit % 8 == 0 || static_cast<uint8_t>(data[size - 1] << (bit % 8)) == 0;
}

const char* decode_single(const uint8_t* data, size_t size, uint16_t symbol, uint16_t* symbols, size_t count) {
  if (size != count / 8 + (count % 8 != 0)) return "Huffman payload has the wrong length";
  for (size_t i = 0; i < size; ++i)
    if (data[i]) return "Huffman payload holds a code that no symbol has";
  for (size_t i = 0; i < count; ++i) symbols[i] = symbol;
  return nullptr;
}

}  // namespace

const char* huffman_encode(const uint16_t* symbols, size_t count, const uint8_t* lengths, size_t alphabet,
                           std::vector<uint8_t>& out) {
  std::vector<uint16_t> codes;
  if (canonical_codes(lengths, alphabet, codes) < 1 && count) return "Huffman lengths break Kraft's equality";
  uint64_t buffer = 0;
  int held = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t s = symbols[i];
    if (s >= alphabet || !lengths[s]) return "a symbol has no Huffman code";
    buffer = buffer << lengths[s] | codes[s];
    held += lengths[s];
    for (; held >= 8; held -= 8) out.push_back(static_cast<uint8_t>(buffer >> (held - 8)));
  }
  if (held) out.push_back(static_cast<uint8_t>(buffer << (8 - held)));
  return nullptr;
}

const char* huffman_decode(const uint8_t* data, size_t size, const uint8_t* lengths, size_t alphabet, uint16_t* symbols,
                           size_t count) {
  std::vector<uint16_t> codes;
  const int used = canonical_codes(lengths, alphabet, codes);
  if (used < 1) return "Huffman lengths break Kraft's equality";
  std::vector<HuffmanEntry> table(kTableSize);
  fill_table(lengths, codes, table.data());
  if (used == 1) return decode_single(data, size, table[0].symbol, symbols, count);
  const HuffmanEntry* look_up = table.data();
  size_t bit = 0, i = 0;
  // Four codes are at most 48 bits, and a load leaves at least 57 after the shift to the wanted bit.
  for (; i + 4 <= count && bit / 8 + 8 <= size; i += 4) {
    uint64_t window = load_big_endian(data + bit / 8) << (bit % 8);
    for (int j = 0; j < 4; ++j) {
      const HuffmanEntry entry = look_up[window >> (64 - kHuffmanMaxLength)];
      symbols[i + j] = entry.symbol;
      window <<= entry.length;
      bit += entry.length;
    }
  }
  for (; i < count; ++i) {
    const HuffmanEntry entry = look_up[peek_tail(data, size, bit) >> (64 - kHuffmanMaxLength)];
    symbols[i] = entry.symbol;
    bit += entry.length;
    if (bit > size * 8) return "Huffman payload is too short";
  }
  return ends_clean(data, size, bit) ? nullptr : "Huffman payload is too long";
}

const char* rans_encode(const uint16_t* symbols, size_t count, const uint16_t* frequencies, size_t alphabet,
                        int precision, size_t lanes, std::vector<uint8_t>& out) {
  std::vector<uint32_t> starts(alphabet + 1, 0);
  for (size_t s = 0; s < alphabet; ++s) starts[s + 1] = starts[s] + frequencies[s];
  std::vector<uint32_t> states(lanes, kRansFloor);
  std::vector<uint16_t> words;
  for (size_t i = count; i-- > 0;) {
    const size_t s = symbols[i];
    if (s >= alphabet || !frequencies[s]) return "a symbol has no rANS frequency";
    const uint64_t f = frequencies[s];
    uint64_t x = states[i % lanes];
    if (x >= (uint64_t{kRansFloor} >> precision << 16) * f) {
      words.push_back(static_cast<uint16_t>(x));
      x >>= 16;
    }
    states[i % lanes] = static_cast<uint32_t>((x / f << precision) + x % f + starts[s]);
  }
  for (const uint32_t x : states)
    for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<uint8_t>(x >> shift));
  for (size_t i = words.size(); i-- > 0;) {
    out.push_back(static_cast<uint8_t>(words[i]));
    out.push_back(static_cast<uint8_t>(words[i] >> 8));
  }
  return nullptr;
}

namespace {

// One symbol of one lane. `position` moves past the word it may take; false if there is none left.
inline bool rans_step(const RansEntry* table, int precision, uint32_t& x, const uint8_t* data, size_t size,
                      size_t& position, uint16_t& symbol) {
  const RansEntry entry = table[x & ((1u << precision) - 1)];
  symbol = entry.symbol;
  x = entry.frequency * (x >> precision) + entry.offset;
  if (x >= kRansFloor) return true;
  if (size - position < 2) return false;
  x = x << 16 | data[position] | uint32_t{data[position + 1]} << 8;
  position += 2;
  return true;
}

template <size_t kLanes>
const char* rans_loop(const uint8_t* data, size_t size, const RansEntry* table, int precision, uint16_t* symbols,
                      size_t count) {
  uint32_t states[kLanes];
  for (size_t j = 0; j < kLanes; ++j) {
    states[j] = load_u32(data + 4 * j);
    if (states[j] < kRansFloor) return "rANS state is too small";
  }
  size_t position = 4 * kLanes, i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j)
      if (!rans_step(table, precision, states[j], data, size, position, symbols[i + j]))
        return "rANS payload is too short";
  for (size_t j = 0; i < count; ++i, ++j)
    if (!rans_step(table, precision, states[j], data, size, position, symbols[i])) return "rANS payload is too short";
  for (size_t j = 0; j < kLanes; ++j)
    if (states[j] != kRansFloor) return "rANS payload does not end in the initial state";
  return position == size ? nullptr : "rANS payload is too long";
}

}  // namespace

const char* rans_decode(const uint8_t* data, size_t size, const uint16_t* frequencies, size_t alphabet, int precision,
                        size_t lanes, uint16_t* symbols, size_t count) {
  if (precision < 8 || precision > 14) return "rANS precision is not 8..14";
  uint64_t total = 0;
  for (size_t s = 0; s < alphabet; ++s) total += frequencies[s];
  if (total != uint64_t{1} << precision) return "rANS frequencies do not sum to a whole";
  if (size < 4 * lanes) return "rANS payload is too short";
  std::vector<RansEntry> table(size_t{1} << precision);
  size_t slot = 0;
  for (size_t s = 0; s < alphabet; ++s)
    for (uint16_t j = 0; j < frequencies[s]; ++j) table[slot++] = {static_cast<uint16_t>(s), frequencies[s], j, 0};
  switch (lanes) {
    case 1: return rans_loop<1>(data, size, table.data(), precision, symbols, count);
    case 2: return rans_loop<2>(data, size, table.data(), precision, symbols, count);
    case 4: return rans_loop<4>(data, size, table.data(), precision, symbols, count);
    case 8: return rans_loop<8>(data, size, table.data(), precision, symbols, count);
    default: return "rANS lanes are not 1, 2, 4 or 8";
  }
}

}  // namespace bitwright
