// Bindings of the entropy coders.
#include <nanobind/nanobind.h>

void bind_coders(nanobind::module_&) {}
