// Bindings of operations on byte codes: int8 convolutions.
#include "bind_operations.h"

void bind_bytes(nb::module_& m) { (void)m; }
