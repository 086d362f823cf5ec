#include "patterns.h"

#include <algorithm>
#include <vector>

#include "ceil_div.h"
#include "cpu.h"
#include "dispatch.h"
#include "parallel.h"

namespace {

constexpr int64_t kFloat = sizeof(float);
// Samples of a linear layer per task: their inputs stay in the second-level cache while all weights pass over them.
constexpr int64_t kSamples = 70;

// The kernel of the current level.
template <class Kernel>
Kernel variant(Kernel ref, Kernel avx2, Kernel avx512) {
  const Isa isa = current_isa();
  return isa >= Isa::avx512 ? avx512 : isa == Isa::avx2 ? avx2 : ref;
}

#if defined(__x86_64__)
#define VARIANT(name) variant(name##_ref, name##_avx2, name##_avx512)
#else
#define VARIANT(name) name##_ref
#endif

std::string named(const char* name) { return std::string(name) + isa_name(std::min(current_isa(), Isa::avx512)); }

bool is_linear(const Conv2dShape& s) {
  return s.in_h * s.in_w * s.kernel_h * s.kernel_w == 1 && s.groups == 1 && s.pad_h + s.pad_w == 0;
}

int64_t blocks_of(const Conv2dShape& s) { return s.groups * pattern_blocks(s.out_c / s.groups); }

// Weight number `index`, counted as [O][C / groups][kernel_h][kernel_w].
struct Filters {
  const Conv2dShape& s;
  const float* weight;
  int64_t in_c = s.in_c / s.groups, out_c = s.out_c / s.groups, area = s.kernel_h * s.kernel_w;

  // Of the channel in a lane of a block, 0 where there is none.
  float at(int64_t block, int64_t lane, int64_t tap, int64_t c) const {
    const int64_t blocks = pattern_blocks(out_c), o = block % blocks * HALF_BLOCK + lane;
    return o < out_c && c < in_c ? weight[((block / blocks * out_c + o) * in_c + c) * area + tap] : 0;
  }
};

}  // namespace

template <class Weights>
PatternedConv<Weights>::PatternedConv(const Conv2dShape& shape, const Finish& finish, Kernel kernel, std::string name)
    : Operation(finish.input_bytes(shape.in_h * shape.in_w * shape.in_c * kFloat, shape.out_h * shape.out_w),
                finish.output_bytes(shape.out_h * shape.out_w)),
      shape_(shape), finish_(finish), kernel_(kernel), kernel_name_(std::move(name)) {}

template <class Weights>
void PatternedConv<Weights>::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  if (batch == 0) return;
  const auto* x = static_cast<const float*>(inputs[0]);
  auto* out = static_cast<float*>(outputs[0]);
  const Epilogue epilogue = finish_.rest(finish_.residual ? static_cast<const float*>(inputs[1]) : nullptr);
  threads = useful_threads(threads, batch * shape_.out_h * shape_.out_w * products_);
  if (is_linear(shape_)) return run_samples(epilogue, x, out, batch, threads);
  Conv2dShape shape = shape_;
  shape.batch = batch;
  const size_t scratch = conv2d_scratch(&shape, conv_task_rows(shape, threads));
  run_conv_tasks(shape, blocks_of(shape), threads, [&](const Conv2dTask& task) {
    kernel_(&shape, &weights_, &epilogue, x, out, &task, thread_scratch(scratch));
  });
}

template <class Weights>
void PatternedConv<Weights>::run_samples(const Epilogue& epilogue, const float* x, float* out, int64_t batch,
                                         int threads) const {
  const int64_t blocks = blocks_of(shape_), chunks = ceil_div(batch, kSamples);
  const int64_t parts = threads > 1 ? std::clamp<int64_t>(ceil_div(4 * threads, chunks), 1, blocks) : 1;
  parallel_for(chunks * parts, threads, [&](int64_t index) {
    const int64_t part = index % parts, chunk = index / parts;
    const int64_t n0 = batch * chunk / chunks, n1 = batch * (chunk + 1) / chunks;
    Conv2dShape shape = shape_;
    shape.batch = 1;
    shape.in_w = shape.out_w = n1 - n0;
    shape.stride_w = 1;
    Epilogue own = epilogue;
    if (own.residual) own.residual += n0 * shape.out_c;
    const Conv2dTask task = {0, 0, 1, blocks * part / parts, blocks * (part + 1) / parts};
    void* scratch = thread_scratch(conv2d_scratch(&shape, 1));
    kernel_(&shape, &weights_, &own, x + n0 * shape.in_c, out + n0 * shape.out_c, &task, scratch);
  });
}

int64_t pattern_slots(const Conv2dShape& s, const float* weight) {
  const Filters filters = {s, weight};
  int64_t most = 0;
  for (int64_t o = 0; o < s.out_c; ++o)
    for (int64_t tap = 0; tap < filters.area; ++tap)
      for (int64_t c0 = 0; c0 < filters.in_c; c0 += PATTERN_WINDOW) {
        const int64_t c1 = std::min<int64_t>(c0 + PATTERN_WINDOW, filters.in_c);
        int64_t count = 0;
        for (int64_t c = c0; c < c1; ++c) count += weight[(o * filters.in_c + c) * filters.area + tap] != 0;
        most = std::max(most, count);
      }
  return most;
}

PatternConv::PatternConv(const Conv2dShape& s, const float* weight, const Finish& finish)
    : PatternedConv(s, finish, VARIANT(pattern_conv), named("pattern ")) {
  const Filters filters = {s, weight};
  const int64_t slots = std::max<int64_t>(ceil_div(pattern_slots(s, weight), 2) * 2, 2);
  const int64_t place_bytes = slots == 2 ? 1 : slots == 4 ? 2 : 4, windows = ceil_div(filters.in_c, PATTERN_WINDOW);
  const int64_t all = blocks_of(s) * filters.area * windows;
  places_ = Aligned<uint8_t>(all * HALF_BLOCK * place_bytes);
  values_ = Aligned<float>(all * HALF_BLOCK * slots);
  for (int64_t window = 0; window < all; ++window)
    for (int64_t lane = 0; lane < HALF_BLOCK; ++lane) {
      const int64_t tap = window / windows % filters.area, block = window / windows / filters.area;
      uint8_t* places = places_.data() + (window * HALF_BLOCK + lane) * place_bytes;
      int64_t slot = 0, any = 0;
      const auto put = [&](int64_t place) { places[slot / 2] |= static_cast<uint8_t>(place << slot % 2 * 4); };
      for (int64_t place = 0; place < PATTERN_WINDOW; ++place) {
        const float value = filters.at(block, lane, tap, window % windows * PATTERN_WINDOW + place);
        if (value == 0) continue;
        put(any = place);
        values_.data()[(window * slots + slot++) * HALF_BLOCK + lane] = value;
      }
      for (; slot < slots; ++slot) put(any);
    }
  weights_ = {slots, windows, place_bytes, places_.data(), values_.data()};
  products_ = filters.area * windows * slots * s.out_c;
}

BlockedConv::BlockedConv(const Conv2dShape& s, const float* weight, const Finish& finish)
    : PatternedConv(s, finish, VARIANT(blocked_conv), named("blocked ")) {
  const Filters filters = {s, weight};
  const int64_t blocks = blocks_of(s), group_blocks = blocks / s.groups;
  starts_ = Aligned<uint32_t>(blocks * s.kernel_h + 1);
  std::vector<uint32_t> offsets;
  std::vector<float> values;
  for (int64_t i = 0; i < blocks * s.kernel_h; ++i) {
    const int64_t block = i / s.kernel_h, ky = i % s.kernel_h;
    for (int64_t kx = 0; kx < s.kernel_w; ++kx)
      for (int64_t c = 0; c < filters.in_c; ++c) {
        float taps[HALF_BLOCK];
        for (int64_t lane = 0; lane < HALF_BLOCK; ++lane) taps[lane] = filters.at(block, lane, ky * s.kernel_w + kx, c);
        if (std::all_of(taps, taps + HALF_BLOCK, [](float tap) { return tap == 0; })) continue;
        const int64_t channel = block / group_blocks * filters.in_c + c;
        offsets.push_back(static_cast<uint32_t>(kx * s.dilation_w * s.in_c + channel));
        values.insert(values.end(), taps, taps + HALF_BLOCK);
      }
    starts_.data()[i + 1] = static_cast<uint32_t>(offsets.size());
  }
  offsets_ = Aligned<uint32_t>(static_cast<int64_t>(offsets.size()));
  values_ = Aligned<float>(static_cast<int64_t>(values.size()));
  std::copy(offsets.begin(), offsets.end(), offsets_.data());
  std::copy(values.begin(), values.end(), values_.data());
  weights_ = {starts_.data(), offsets_.data(), values_.data()};
  products_ = static_cast<int64_t>(values.size());
}

template class PatternedConv<PatternWeights>;
template class PatternedConv<BlockedWeights>;
