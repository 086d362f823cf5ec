// Bindings of what training computes in one pass: arrays of float32, or of bfloat16 as 16-bit integers.
#include "bind_operations.h"
#include "bind_unlocked.h"
#include "dispatch.h"

namespace {

using Tensor = nb::ndarray<nb::c_contig, nb::device::cpu>;  // (pixels, channels)
using Numbers = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

struct Checked {
  TrainingCall call{};

  explicit Checked(int operation, const Tensor& x) {
    call.operation = operation;
    if (x.ndim() != 2) refuse("x has " + std::to_string(x.ndim()) + " axes, expected (pixels, channels)");
    call.half = half(x, "x");
    call.shape = {static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1))};
    call.x = x.data();
  }

  static bool half(const Tensor& x, const char* name) {
    if (x.dtype() == nb::dtype<float>()) return false;
    if (x.dtype().bits != 16) refuse(std::string(name) + " must be float32, or bfloat16 as 16-bit integers");
    return true;
  }

  void* like(const Tensor& other, const char* name) const {
    if (other.ndim() != 2 || static_cast<int64_t>(other.shape(0)) != call.shape.pixels ||
        static_cast<int64_t>(other.shape(1)) != call.shape.channels || half(other, name) != bool(call.half))
      refuse(std::string(name) + " must have the shape and type of x");
    return other.data();
  }

  float* numbers(const Numbers& array, int64_t rows, const char* name) const {
    if (static_cast<int64_t>(array.size()) != rows * call.shape.channels)
      refuse(std::string(name) + " has " + std::to_string(array.size()) + " entries, expected " +
             std::to_string(rows * call.shape.channels));
    return array.data();
  }

  void run(int threads) const {
    if (threads < 1) refuse("threads is " + std::to_string(threads) + ", expected at least 1");
    if (!call.shape.pixels || !call.shape.channels) {
      for (int64_t i = 0; call.sums && i < (call.operation == TRAIN_SUM ? 1 : 3) * call.shape.channels; ++i)
        call.sums[i] = 0;
      return;
    }
    Unlocked unlocked;
    run_training(call, threads);
  }
};

void sign(const Tensor& x, const Tensor& result, int threads) {
  Checked c(TRAIN_SIGN, x);
  c.call.result = c.like(result, "result");
  c.run(threads);
}

void sign_back(const Tensor& x, const Tensor& gradient, const Tensor& result, bool curve, int threads) {
  Checked c(TRAIN_SIGN_BACK, x);
  c.call.gradient = c.like(gradient, "gradient");
  c.call.result = c.like(result, "result");
  c.call.curve = curve;
  c.run(threads);
}

void shift(const Tensor& x, const Numbers& before, const Tensor& result, int threads) {
  Checked c(TRAIN_SHIFT, x);
  c.call.before = c.numbers(before, 1, "before");
  c.call.result = c.like(result, "result");
  c.run(threads);
}

void sum(const Tensor& x, const Numbers& sums, int threads) {
  Checked c(TRAIN_SUM, x);
  c.call.sums = c.numbers(sums, 1, "sums");
  c.run(threads);
}

void rprelu(const Tensor& x, const Numbers& before, const Numbers& slope, const Numbers& after, const Tensor& result,
            int threads) {
  Checked c(TRAIN_RPRELU, x);
  c.call.before = c.numbers(before, 1, "before");
  c.call.slope = c.numbers(slope, 1, "slope");
  c.call.after = c.numbers(after, 1, "after");
  c.call.result = c.like(result, "result");
  c.run(threads);
}

void rprelu_back(const Tensor& x, const Tensor& gradient, const Numbers& before, const Numbers& slope,
                 const Tensor& result, const Numbers& sums, int threads) {
  Checked c(TRAIN_RPRELU_BACK, x);
  c.call.gradient = c.like(gradient, "gradient");
  c.call.before = c.numbers(before, 1, "before");
  c.call.slope = c.numbers(slope, 1, "slope");
  c.call.result = c.like(result, "result");
  c.call.sums = c.numbers(sums, 3, "sums");
  c.run(threads);
}

}  // namespace

void bind_training(nb::module_& m) {
  m.def("training_sign", &sign, nb::arg("x"), nb::arg("result"), nb::arg("threads") = 1);
  m.def("training_sign_back", &sign_back, nb::arg("x"), nb::arg("gradient"), nb::arg("result"), nb::arg("curve"),
        nb::arg("threads") = 1);
  m.def("training_shift", &shift, nb::arg("x"), nb::arg("before"), nb::arg("result"), nb::arg("threads") = 1);
  m.def("training_sum", &sum, nb::arg("x"), nb::arg("sums"), nb::arg("threads") = 1);
  m.def("training_rprelu", &rprelu, nb::arg("x"), nb::arg("before"), nb::arg("slope"), nb::arg("after"),
        nb::arg("result"), nb::arg("threads") = 1);
  m.def("training_rprelu_back", &rprelu_back, nb::arg("x"), nb::arg("gradient"), nb::arg("before"), nb::arg("slope"),
        nb::arg("result"), nb::arg("sums"), nb::arg("threads") = 1);
}
