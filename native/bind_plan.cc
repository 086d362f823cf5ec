// Bindings of the plan: a list of operations on one arena.
#include "bind_operations.h"

void bind_plan(nb::module_& m) { (void)m; }
