// Bindings of float operations: convolution, linear, pooling, element-wise.
#include "bind_operations.h"

void bind_floats(nb::module_& m) { (void)m; }
