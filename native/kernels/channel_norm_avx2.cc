// Norms across channels, AVX2.
#include "channel_norm.h"

void channel_norm_avx2(CHANNEL_NORM_ARGUMENTS) { channel_norm(norm, x, out, scratch); }
