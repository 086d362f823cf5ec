// Norms across channels, AVX-512.
#include "channel_norm.h"

void channel_norm_avx512(CHANNEL_NORM_ARGUMENTS) { channel_norm(norm, x, out, scratch); }
