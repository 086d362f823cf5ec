// How the operations on sparse weights choose layouts and kernels when they are made, and divide their work when they
// run.
//
// Cutting never changes a result: each output is computed by one task, with additions in an order that does not depend
// on the others.
#include "sparse.h"

#include <algorithm>
#include <ctime>
#include <limits>

#include "ceil_div.h"
#include "cpu.h"
#include "dispatch.h"
#include "parallel.h"

namespace {

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

// A row takes as long as so many of its entries, beside these.
constexpr int64_t kRow = 20;

// Whether one sample takes less time by strips than by gathering entries row by row. Measured on 10x100 to 4096x4096;
// the unit is the time of a gathered entry. A few samples together, which share what a step looks up, gain two to nine
// times as much.
bool worth_strips(const Strips& strips, int64_t rows, const SparseEntries& e) {
  constexpr int64_t kStep = 8, kGatheringStep = 13;
  const bool in_registers = e.coded() && e.table_size <= 64;
  return strips.steps() * (in_registers ? kStep : kGatheringStep) < e.count + rows * kRow;
}

// For more samples, a run of entries (see SparseMatrix) takes as long as so many entries, beside its own.
constexpr int64_t kRun = 11;

// The work of all rows before each, and of all: entries, and `beside` for the row.
std::vector<int64_t> work_before(int64_t rows, int64_t cols, const SparseEntries& e, int64_t beside) {
  std::vector<int64_t> before(rows + 1, 0);
  for (int64_t i = 0; i < e.count; ++i) ++before[e.positions[i] / cols + 1];
  for (int64_t row = 0; row < rows; ++row) before[row + 1] += before[row] + beside;
  return before;
}

// The same for groups of rows in strips.
std::vector<int64_t> work_before(const Strips& strips) {
  std::vector<int64_t> before = strips.steps_before();
  for (size_t g = 0; g < before.size(); ++g) before[g] += static_cast<int64_t>(g);
  return before;
}

// The unit with which part `part` of `parts` begins, so that all have about equal work. `before` rises strictly.
int64_t part_begin(const std::vector<int64_t>& before, int64_t part, int64_t parts) {
  const int64_t goal = before.back() * part / parts;
  auto found = std::lower_bound(before.begin(), before.end(), goal);
  if (found != before.begin() && goal - *(found - 1) < *found - goal) --found;
  return found - before.begin();
}

std::optional<Strips> strips_if_worth(int64_t rows, int64_t cols, const SparseEntries& e) {
  if (current_isa() < Isa::avx512 || !Strips::possible(cols, e)) return std::nullopt;
  Strips strips(rows, cols, e);
  return worth_strips(strips, rows, e) ? std::optional(std::move(strips)) : std::nullopt;
}

}  // namespace

SparseLinear::SparseLinear(int64_t rows, int64_t cols, const SparseEntries& e, const Finish& finish)
    : Operation(finish.input_bytes(cols * static_cast<int64_t>(sizeof(float)), 1), finish.output_bytes(1)),
      finish_(finish),
      strips_(strips_if_worth(rows, cols, e)),
      weights_(rows, cols, e.count, e.positions, e.codes8, e.codes16, e.table, e.table_size, strips_.has_value()),
      row_work_(work_before(rows, cols, e, kRow)),
      run_work_(work_before(rows, cols, e, kRun * ceil_div(cols, SPARSE_COLUMNS))),
      group_work_(strips_ ? work_before(*strips_) : std::vector<int64_t>()),
      kernel_(sparse_linear_variant()),
      kernel_name_(std::string("sparse ") + float_level() + (strips_ ? " strips" : "")) {}

SparseLinear::Cut SparseLinear::cut(int64_t batch, int threads, bool equal_rows) const {
  Cut cut = {};
  cut.by_strips = strips_ && batch <= STRIP_BATCH;
  cut.samples = cut.by_strips ? +STRIP_SAMPLES : +SPARSE_LANES;
  cut.unit = cut.by_strips ? +STRIP_ROWS : 1;
  cut.chunks = ceil_div(batch, cut.samples);
  cut.parts = std::clamp<int64_t>(ceil_div(threads, cut.chunks), 1, ceil_div(weights_.rows, SPARSE_OUT_ROWS));
  const std::vector<int64_t>& work = cut.by_strips ? group_work_ : batch <= SPARSE_FEW ? row_work_ : run_work_;
  const auto units = static_cast<int64_t>(work.size()) - 1;
  int64_t most = 0;
  for (int64_t part = 0; part <= cut.parts; ++part) {
    cut.begins.push_back(equal_rows ? units * part / cut.parts : part_begin(work, part, cut.parts));
    if (part > 0) most = std::max(most, cut.begins[part] - cut.begins[part - 1]);
  }
  cut.scratch = cut.by_strips ? sparse_strips_scratch(weights_.cols, most) : sparse_linear_scratch(most);
  return cut;
}

void SparseLinear::run_part(const Cut& cut, int64_t chunk, int64_t part, const float* x, float* out,
                            int64_t batch) const {
  Epilogue epilogue = finish_.rest(nullptr);
  if (finish_.residual) epilogue.relu = false;
  const SparseStrips strips = strips_ ? strips_->view() : SparseStrips{};
  SparseMatrix matrix = weights_.matrix;
  matrix.strips = strips_ ? &strips : nullptr;
  const int64_t first = chunk * cut.samples;
  const SparseTask task = {first, std::min(first + cut.samples, batch), cut.begins[part] * cut.unit,
                           cut.begins[part + 1] * cut.unit};
  kernel_(&matrix, &epilogue, x, out, batch, &task, thread_scratch(cut.scratch));
}

std::vector<double> SparseLinear::part_seconds(const float* x, float* out, int64_t batch, int threads,
                                               int64_t repeats, bool equal_rows) const {
  const auto now = [] {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const Cut cut = this->cut(batch, threads, equal_rows);
  std::vector<double> seconds;
  for (int64_t part = 0; part < cut.parts; ++part) {
    const double start = now();
    for (int64_t i = 0; i < repeats * cut.chunks; ++i) run_part(cut, i % cut.chunks, part, x, out, batch);
    seconds.push_back((now() - start) / static_cast<double>(repeats));
  }
  return seconds;
}

void SparseLinear::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  if (batch == 0) return;
  const auto* x = static_cast<const float*>(inputs[0]);
  auto* out = static_cast<float*>(outputs[0]);
  threads = useful_threads(threads, batch * weights_.entries);
  const Cut cut = this->cut(batch, threads);
  parallel_for(cut.chunks * cut.parts, threads,
               [&](int64_t index) { run_part(cut, index / cut.parts, index % cut.parts, x, out, batch); });
  if (finish_.residual) {
    const auto kernel = elementwise_kernel();
    const auto* residual = static_cast<const float*>(inputs[1]);
    Elementwise work = {};
    work.kind = ELEMENTWISE_ADD;
    work.rows = batch * weights_.rows;
    work.channels = 1;
    work.x = work.out = out;
    work.other = residual;
    run_elementwise(kernel, work, threads);
    work.kind = ELEMENTWISE_CLAMP;
    work.high = std::numeric_limits<float>::infinity();
    if (finish_.relu) run_elementwise(kernel, work, threads);
  }
}

namespace {

// Eight lanes are enough for narrow images.
Isa sparse_conv_isa(const Conv2dShape& s) {
  const Isa isa = std::min(current_isa(), Isa::avx512);
  return isa == Isa::avx512 && s.out_w <= 8 ? Isa::avx2 : isa;
}

auto sparse_conv_variant(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return sparse_conv_avx512;
  if (isa == Isa::avx2) return sparse_conv_avx2;
#endif
  (void)isa;
  return sparse_conv_ref;
}

// Of the accumulators that a variant has, the tile that wastes the fewest rows of the image.
int64_t tile_rows(int64_t out_h, int64_t sets) {
  int64_t best = 8;
  for (int64_t rows : {7, 14})
    if ((rows == 7 || sets == 1) && ceil_div(out_h, rows) * rows < ceil_div(out_h, best) * best + (rows > best))
      best = rows;
  return best;
}

// Geometry of the copy and the tiles; see kernels/sparse_conv.h.
SparseConvWeights conv_layout(const Conv2dShape& s, Isa isa) {
  // A block of channels, beside the sums of an output channel, in the first-level cache.
  constexpr int64_t kCopyBytes = 44 * 1024;
  const int64_t group_in = s.in_c / s.groups;
  SparseConvWeights w = {};
  w.shape = s;
  w.phases = s.stride_w;
  w.blocks = w.sets = 1;
  if (isa == Isa::ref) {
    w.rows = s.out_h;
    w.tile_columns = s.out_w;
    w.block_channels = group_in;
    return w;
  }
  const int64_t most_sets = isa == Isa::avx2 ? 1 : 3;
  const int64_t shifts = (s.kernel_w - 1) * s.dilation_w / s.stride_w + 1;
  w.lanes = isa == Isa::avx2 ? 8 : 16;
  w.sets = std::min(most_sets, shifts);
  w.rows = tile_rows(s.out_h, w.sets);
  w.in_rows = (w.rows - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  w.line = ceil_div(w.lanes + (shifts - 1) / w.sets * w.sets, w.lanes) * w.lanes;
  w.tile_columns = w.lanes - w.sets + 1;
  // One line holds the row if only padding is missing on both sides.
  const bool first_is_padding = s.pad_w >= s.stride_w;
  const bool last_is_padding = (s.out_w + 1) * s.stride_w - s.pad_w >= s.in_w;
  if (shifts == 3 && w.sets == 3 && s.out_w > w.tile_columns && s.out_w <= w.lanes && first_is_padding &&
      last_is_padding) {
    w.origin = 1;
    w.tile_columns = w.lanes;
  }
  const int64_t channels = std::max<int64_t>(kCopyBytes / 4 / sparse_conv_channel(&w), 1);
  w.blocks = ceil_div(group_in, channels);
  w.block_channels = ceil_div(group_in, w.blocks);
  if (w.blocks > 1 && channels >= w.lanes)
    w.block_channels = std::min(ceil_div(w.block_channels, w.lanes) * w.lanes, channels);
  w.blocks = ceil_div(group_in, w.block_channels);
  return w;
}

}  // namespace

SparseConv::SparseConv(const Conv2dShape& s, const SparseEntries& e, const Finish& finish)
    : Operation(finish.input_bytes(s.in_h * s.in_w * s.in_c * static_cast<int64_t>(sizeof(float)), s.out_h * s.out_w),
                finish.output_bytes(s.out_h * s.out_w)),
      finish_(finish),
      entries_(e.count),
      offsets_(e.count),
      values_(e.count),
      layout_(conv_layout(s, sparse_conv_isa(s))),
      kernel_(sparse_conv_variant(sparse_conv_isa(s))),
      kernel_name_(std::string("sparse_conv ") + isa_name(sparse_conv_isa(s))) {
  starts_ = Aligned<uint32_t>(layout_.blocks * s.out_c * layout_.sets + 1);
  place(e);
  layout_.starts = starts_.data();
  layout_.offsets = offsets_.data();
  layout_.values = values_.data();
}

// Entries in the order of blocks, output channels and sets, by counting.
void SparseConv::place(const SparseEntries& e) {
  const SparseConvWeights& w = layout_;
  const Conv2dShape& s = w.shape;
  const int64_t area = s.kernel_h * s.kernel_w, filter = s.in_c / s.groups * area;
  const auto shift = [&](int64_t position) { return position % s.kernel_w * s.dilation_w / s.stride_w; };
  const auto list = [&](int64_t position) {
    const int64_t o = position / filter, block = position % filter / area / w.block_channels;
    return (block * s.out_c + o) * w.sets + (w.lanes ? shift(position) % w.sets : 0);
  };
  uint32_t* starts = starts_.data();
  for (int64_t i = 0; i < e.count; ++i) ++starts[list(e.positions[i]) + 1];
  for (int64_t i = 0; i < w.blocks * s.out_c * w.sets; ++i) starts[i + 1] += starts[i];
  std::vector<uint32_t> next(starts, starts + w.blocks * s.out_c * w.sets);
  for (int64_t i = 0; i < e.count; ++i) {
    const int64_t position = e.positions[i], flat = position % filter;
    const int64_t c = flat / area % w.block_channels, ky = flat % area / s.kernel_w;
    const int64_t phase = position % s.kernel_w * s.dilation_w % s.stride_w;
    const int64_t line = (c * w.in_rows + ky * s.dilation_h) * w.phases + phase;
    const uint32_t at = next[list(position)]++;
    offsets_.data()[at] = static_cast<uint32_t>(w.lanes ? line * w.line + shift(position) / w.sets * w.sets : flat);
    values_.data()[at] = e.value(i);
  }
}

void SparseConv::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  const Conv2dShape& s = layout_.shape;
  const auto* x = static_cast<const float*>(inputs[0]);
  auto* out = static_cast<float*>(outputs[0]);
  const Epilogue epilogue = finish_.rest(finish_.residual ? static_cast<const float*>(inputs[1]) : nullptr);
  threads = useful_threads(threads, batch * s.out_h * s.out_w * entries_);
  const int64_t rows = ceil_div(s.out_h, layout_.rows), columns = ceil_div(s.out_w, layout_.tile_columns);
  const int64_t tiles = batch * rows * columns;
  if (tiles == 0) return;
  // Few tiles: the output channels are divided too.
  const int64_t parts = threads > 1 ? std::clamp<int64_t>(ceil_div(4 * threads, tiles), 1, s.out_c) : 1;
  const size_t scratch = sparse_conv_scratch(&layout_, ceil_div(s.out_c, parts));
  parallel_for(tiles * parts, threads, [&](int64_t index) {
    const int64_t part = index % parts, tile = index / parts;
    const SparseConvTask task = {tile / columns / rows, tile / columns % rows * layout_.rows,
                                 tile % columns * layout_.tile_columns, s.out_c * part / parts,
                                 s.out_c * (part + 1) / parts};
    kernel_(&layout_, &epilogue, x, out, &task, thread_scratch(scratch));
  });
}
