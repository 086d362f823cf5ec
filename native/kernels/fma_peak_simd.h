// The peak of fused multiply-adds. Include vec_<isa>.h first.
#pragma once

static float fma_peak(int64_t turns, double* operations) {
  const vec half = broadcast(0.5f), one = broadcast(1.0f);
  vec sums[TILE_SUMS];
#pragma GCC unroll 32
  for (int i = 0; i < TILE_SUMS; ++i) sums[i] = broadcast((float)i);
  for (int64_t turn = 0; turn < turns; ++turn)
#pragma GCC unroll 32
    for (int i = 0; i < TILE_SUMS; ++i) sums[i] = fma(sums[i], half, one);
  vec all = zero();
#pragma GCC unroll 32
  for (int i = 0; i < TILE_SUMS; ++i) all = add(all, sums[i]);
  *operations = 2.0 * LANES * TILE_SUMS * (double)turns;
  return sum(all);
}
