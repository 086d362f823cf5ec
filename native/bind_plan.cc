// Bindings of the plan: a list of operations on one arena.
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>

#include "bind_operations.h"
#include "bind_unlocked.h"
#include "plan.h"

namespace {

using Writable = nb::ndarray<nb::device::cpu>;
using Inputs = std::vector<Array>;
using Outputs = std::vector<Writable>;

// Addresses of arrays that hold `batch` images each.
std::vector<const void*> addresses(const std::vector<Array>& arrays, const std::vector<int64_t>& bytes, int64_t batch,
                                   const std::string& what) {
  if (arrays.size() != bytes.size())
    refuse("there are " + std::to_string(arrays.size()) + " " + what + "s, expected " + std::to_string(bytes.size()));
  std::vector<const void*> found;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const std::string name = what + " " + std::to_string(i);
    found.push_back(checked_data(arrays[i], arrays[i].dtype(), -1, name.c_str()));
    if (static_cast<int64_t>(arrays[i].nbytes()) != batch * bytes[i])
      refuse(name + " has " + std::to_string(arrays[i].nbytes()) + " bytes, expected " +
             std::to_string(batch * bytes[i]));
  }
  return found;
}

struct Call {
  std::vector<const void*> inputs;
  std::vector<void*> outputs;

  Call(const Plan& plan, const Inputs& in, const Outputs& out, int64_t batch, int threads) {
    check_threads(threads);
    check_pair({batch, batch}, 0, "batch");
    inputs = addresses(in, plan.input_bytes(), batch, "input");
    std::vector<Array> results(out.begin(), out.end());
    for (const void* p : addresses(results, plan.output_bytes(), batch, "output"))
      outputs.push_back(const_cast<void*>(p));
  }
};

void run(const Plan& plan, const Inputs& inputs, const Outputs& outputs, int64_t batch, int threads) {
  const Call call(plan, inputs, outputs, batch, threads);
  const Unlocked unlocked;
  plan.run(call.inputs.data(), call.outputs.data(), batch, threads);
}

// Seconds of each step, the median of `repeats` runs after one that warms up.
std::vector<double> time_steps(const Plan& plan, const Inputs& inputs, const Outputs& outputs, int64_t batch,
                               int threads, int repeats) {
  const Call call(plan, inputs, outputs, batch, threads);
  check_pair({repeats, repeats}, 1, "repeats");
  const Unlocked unlocked;
  plan.run(call.inputs.data(), call.outputs.data(), batch, threads);
  std::vector<std::vector<double>> runs;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    runs.emplace_back(plan.step_count());
    plan.run_timed(call.inputs.data(), call.outputs.data(), batch, threads, &runs.back());
  }
  std::vector<double> medians, of_step(repeats);
  for (size_t step = 0; step < plan.step_count(); ++step) {
    for (int repeat = 0; repeat < repeats; ++repeat) of_step[repeat] = runs[repeat][step];
    std::nth_element(of_step.begin(), of_step.begin() + repeats / 2, of_step.end());
    medians.push_back(of_step[repeats / 2]);
  }
  return medians;
}

}  // namespace

void bind_plan(nb::module_& m) {
  using Steps = std::vector<std::pair<std::shared_ptr<Operation>, std::vector<int64_t>>>;
  nb::class_<Plan>(m, "Plan")
      .def("__init__",
           [](Plan* self, const std::vector<int64_t>& inputs, const Steps& given, const std::vector<int64_t>& outputs,
              int64_t pass_bytes) {
             std::vector<Plan::Step> steps;
             for (const auto& [operation, values] : given) steps.push_back({operation, values});
             new (self) Plan(inputs, std::move(steps), outputs, pass_bytes);
           },
           nb::arg("inputs"), nb::arg("steps"), nb::arg("outputs"), nb::arg("pass_bytes"))
      .def_prop_ro("arena_bytes", &Plan::arena_bytes)
      .def_prop_ro("pass_images", &Plan::pass_images)
      .def_prop_ro("idle_bytes", &Plan::idle_bytes)
      .def("run", &run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("batch"), nb::arg("threads") = 1)
      .def("time", &time_steps, nb::arg("inputs"), nb::arg("outputs"), nb::arg("batch"), nb::arg("threads") = 1,
           nb::arg("repeats") = 1);
}
