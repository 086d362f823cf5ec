// How the operations on sparse weights choose layouts and kernels when they are made, and divide their work when they run.
//
// Cutting never changes a result: each output is computed by one task, with additions in an order that does not depend on
// the others.
#include "sparse.h"

#include <algorithm>

#include "cpu.h"
#include "parallel.h"

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Below this many multiplications a call takes less time than waking a thread.
constexpr int64_t kWorthThread = 200'000;

int useful_threads(int threads, int64_t multiplications) {
  return static_cast<int>(std::clamp<int64_t>(multiplications / kWorthThread, 1, threads));
}

std::vector<int64_t> input_sizes(int64_t in, int64_t out, const Finish& finish) {
  std::vector<int64_t> inputs = {in * static_cast<int64_t>(sizeof(float))}, outputs;
  finish.append_bytes(out / finish.channels, &inputs, &outputs);
  return inputs;
}

std::vector<int64_t> output_sizes(int64_t out, const Finish& finish) {
  std::vector<int64_t> inputs, outputs;
  finish.append_bytes(out / finish.channels, &inputs, &outputs);
  return outputs;
}

auto sparse_linear_variant() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return sparse_linear_avx512;
  if (isa == Isa::avx2) return sparse_linear_avx2;
#endif
  return sparse_linear_ref;
}

const char* float_level() {
  const Isa isa = current_isa();
  return isa_name(std::min(isa, Isa::avx512));
}

// Whether one sample takes less time by strips than by gathering entries row by row. Measured on 10x100 to 4096x4096; the unit
// is the time of a gathered entry. A few samples together, which share what a step looks up, gain two to nine times as much.
bool worth_strips(const Strips& strips, int64_t rows, const SparseEntries& e) {
  constexpr int64_t kRow = 20, kStep = 8, kGatheringStep = 13;
  const bool in_registers = e.coded() && e.table_size <= 64;
  return strips.steps() * (in_registers ? kStep : kGatheringStep) < e.count + rows * kRow;
}

}  // namespace

SparseLinear::SparseLinear(int64_t rows, int64_t cols, const SparseEntries& e, const Finish& finish)
    : Operation(input_sizes(cols, rows, finish), output_sizes(rows, finish)), finish_(finish),
      weights_(rows, cols, e.count, e.positions, e.codes8, e.codes16, e.table, e.table_size),
      kernel_(sparse_linear_variant()), kernel_name_(std::string("sparse ") + float_level()) {
  if (current_isa() < Isa::avx512 || !Strips::possible(cols, e)) return;
  Strips strips(rows, cols, e);
  if (!worth_strips(strips, rows, e)) return;
  strips_ = std::move(strips);
  kernel_name_ += " strips";
}

void SparseLinear::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  if (batch == 0) return;
  const auto* x = static_cast<const float*>(inputs[0]);
  auto* out = static_cast<float*>(outputs[0]);
  const int64_t rows = weights_.rows, cols = weights_.cols;
  Epilogue epilogue = finish_.rest(nullptr);
  if (finish_.residual) epilogue.relu = false;  // comes after the residual
  const bool by_strips = strips_ && batch <= STRIP_BATCH;
  const SparseStrips strips = strips_ ? strips_->view() : SparseStrips{};
  SparseMatrix matrix = weights_.matrix;
  matrix.strips = strips_ ? &strips : nullptr;
  threads = useful_threads(threads, batch * weights_.entries);
  const int64_t samples = by_strips ? STRIP_SAMPLES : SPARSE_LANES, unit = by_strips ? STRIP_ROWS : 1;
  const int64_t chunks = ceil_div(batch, samples), units = ceil_div(rows, unit);
  const int64_t parts = std::clamp<int64_t>(ceil_div(threads, chunks), 1, ceil_div(units * unit, SPARSE_OUT_ROWS));
  const int64_t part_units = ceil_div(units, parts);
  const size_t scratch = by_strips ? sparse_strips_scratch(cols, part_units) : sparse_linear_scratch(part_units);
  parallel_for(chunks * parts, threads, [&](int64_t index) {
    const int64_t part = index % parts, chunk = index / parts;
    const SparseTask task = {chunk * samples, std::min((chunk + 1) * samples, batch), units * part / parts * unit,
                             units * (part + 1) / parts * unit};
    kernel_(&matrix, &epilogue, x, out, batch, &task, thread_scratch(scratch));
  });
  if (finish_.residual) {
    add_portable(batch * rows, out, static_cast<const float*>(inputs[1]), out);
    if (finish_.relu) relu_portable(batch * rows, out, out);
  }
}
