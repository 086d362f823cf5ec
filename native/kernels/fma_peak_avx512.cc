// The peak of fused multiply-adds, AVX-512.
#include "vec_avx512.h"

#include "fma_peak_simd.h"

float fma_peak_avx512(int64_t turns, double* operations) { return fma_peak(turns, operations); }
