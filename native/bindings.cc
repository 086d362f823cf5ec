// The Python face of the native core. Arguments are checked here and nowhere deeper.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_coders(nb::module_& m);
void bind_operations(nb::module_& m);
void bind_cpu(nb::module_& m);
void bind_bits(nb::module_& m);
void bind_bytes(nb::module_& m);
void bind_floats(nb::module_& m);
void bind_channels(nb::module_& m);
void bind_training(nb::module_& m);
void bind_sparse(nb::module_& m);
void bind_patterns(nb::module_& m);
void bind_exact(nb::module_& m);
void bind_plan(nb::module_& m);

NB_MODULE(_native, m) {
  // Operations held by a global or a traceback when Python ends are no fault worth a page of warnings.
  nb::set_leak_warnings(false);
  bind_coders(m);
  bind_cpu(m);
  bind_operations(m);  // first: the other operations build on its types
  bind_bits(m);
  bind_bytes(m);
  bind_floats(m);
  bind_channels(m);
  bind_training(m);
  bind_sparse(m);
  bind_patterns(m);
  bind_exact(m);
  bind_plan(m);
}
