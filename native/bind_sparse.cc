// Bindings of sparse and coded-weight operations.
#include "bind_operations.h"

void bind_sparse(nb::module_& m) { (void)m; }
