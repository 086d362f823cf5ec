// The peak of fused multiply-adds, AVX2.
#include "vec_avx2.h"

#include "fma_peak_simd.h"

float fma_peak_avx2(int64_t turns, double* operations) { return fma_peak(turns, operations); }
