// Bindings of operations on bits: popcount convolutions, encoding floats.
#include "bind_operations.h"

void bind_bits(nb::module_& m) { (void)m; }
