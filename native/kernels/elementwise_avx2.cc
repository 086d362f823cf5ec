// Element-wise operations, AVX2.
#include "elementwise.h"

void elementwise_avx2(const Elementwise* e) { elementwise(e); }
