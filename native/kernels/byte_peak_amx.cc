// The peak of products of tiles of bytes.
#include <immintrin.h>
#include <string.h>

#include "bytes.h"
#include "tiles_amx.h"

int64_t byte_peak_amx(BYTE_PEAK_ARGUMENTS) {
  alignas(64) uint8_t tiles[4][16 * 64];
  memset(tiles, (uint8_t)*keep, sizeof tiles);
  configure(16);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t r = 0; r < repeats; ++r) {
    _tile_loadd(4, tiles[0], 64);
    _tile_loadd(5, tiles[1], 64);
    _tile_loadd(6, tiles[2], 64);
    _tile_loadd(7, tiles[3], 64);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_stored(0, tiles[0], 64);
  _tile_stored(3, tiles[1], 64);
  *keep += tiles[0][0] + tiles[1][0];
  _tile_release();
  return 4 * 2 * 16 * 16 * 64;
}
