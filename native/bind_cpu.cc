// Bindings of the levels of instructions: what the machine has, what is chosen.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "cpu.h"

namespace nb = nanobind;

namespace {

nb::dict feature_dict() {
  nb::dict found;
  for (const auto& [name, has] : cpu_features()) found[name.c_str()] = has;
  return found;
}

}  // namespace

void bind_cpu(nb::module_& m) {
  m.def("cpu_features", &feature_dict);
  m.def("isa", [] { return std::string(isa_name(current_isa())); });
  m.def("isa_names", &isa_names);
  m.def("set_isa", [](const std::optional<std::string>& name) { set_isa(name.value_or("")); }, nb::arg("name").none());
}
