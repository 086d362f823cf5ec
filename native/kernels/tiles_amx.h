// The shapes of the tile registers.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

// Rows of 64 bytes: so many in registers 0 to 5, 16 in 6 and 7.
static void configure(int64_t rows) {
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } tiles;
  memset(&tiles, 0, sizeof tiles);
  tiles.palette = 1;
  for (int i = 0; i < 8; ++i) {
    tiles.row_bytes[i] = 64;
    tiles.rows[i] = (uint8_t)(i < 6 ? rows : 16);
  }
  // The compiler believes that the instruction reads less than all of it.
  __asm__ volatile("" : : "r"(&tiles) : "memory");
  _tile_loadconfig(&tiles);
}
