// Element-wise operations, AVX-512.
#include "elementwise.h"

void elementwise_avx512(const Elementwise* e) { elementwise(e); }
