// Norms across channels, baseline. Normative.
#include "channel_norm.h"

void channel_norm_ref(CHANNEL_NORM_ARGUMENTS) { channel_norm(norm, x, out, scratch); }
