// The Python face of the native core. Arguments are checked here and nowhere deeper.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_coders(nb::module_& m);
void bind_kernels(nb::module_& m);

NB_MODULE(_native, m) {
  bind_coders(m);
  bind_kernels(m);
}
