// Weights of linear layers kept in 2, 4 or 8 bits in memory, expanded a part at a time that stays in the first-level
// cache.
#pragma once
#include "bytes.h"

template <int BITS, class Weight>
static inline void expand_unit(const uint8_t* __restrict from, Weight* __restrict to) {
  constexpr int mask = (1 << BITS) - 1, bias = 1 << (BITS - 1);
#pragma GCC unroll 4
  for (int part = 0; part < 8 / BITS; ++part)
    for (int i = 0; i < 64; ++i) to[64 * part + i] = (Weight)((from[i] >> (BITS * part) & mask) - bias);
}

// `count` weights, rounded up to PACKED_UNIT, from packed ones to int8 or int16.
template <class Weight>
static void expand_weights(const uint8_t* from, int bits, Weight* to, int64_t count) {
  for (int64_t i = 0; i < count; i += 512 / bits, from += 64, to += 512 / bits)
    if (bits == 2)
      expand_unit<2>(from, to);
    else if (bits == 4)
      expand_unit<4>(from, to);
    else
      expand_unit<8>(from, to);
}

// The expanded weights of words [word, word + words) of a block of so many lanes.
template <class Weight>
static inline void expand_words(const ByteConv* c, int64_t block, int64_t lanes, int64_t words_of_all, int64_t word,
                                int64_t words, Weight* to) {
  const int64_t word_weights = 4 / (int64_t)sizeof(Weight), of_word = word_weights * lanes;
  const int64_t block_bytes = packed_bytes(c->bits, word_weights * SUM_LANES * words_of_all);
  const uint8_t* packed = (const uint8_t*)c->weights + block * block_bytes;
  expand_weights(packed + word * of_word * c->bits / 8, c->bits, to, words * of_word);
}
