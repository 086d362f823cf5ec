// Element-wise operations, baseline. Normative.
#include "elementwise.h"

void elementwise_ref(const Elementwise* e) { elementwise(e); }
