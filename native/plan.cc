#include "plan.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "ceil_div.h"
#include "codes.h"

namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kMostBytes = int64_t{1} << 48;
constexpr size_t kMostBuffers = 64;  // that one operation reads, or writes

[[noreturn]] void refuse(size_t step, const std::string& message) {
  throw std::invalid_argument("step " + std::to_string(step) + " " + message);
}

using Clock = std::chrono::steady_clock;

}  // namespace

Plan::Plan(const std::vector<int64_t>& inputs, std::vector<Step> steps, std::vector<int64_t> outputs,
           int64_t pass_bytes)
    : steps_(std::move(steps)), outputs_(std::move(outputs)), input_bytes_(inputs) {
  number_values(inputs);
  choose_outside();
  write_over();
  place();
  for (int64_t output : outputs_) output_bytes_.push_back(values_[output].bytes);
  pass_images_ = std::max<int64_t>(pass_bytes / std::max<int64_t>(arena_bytes_, 1), 1);
}

Plan::~Plan() {
  for (auto& slot : idle_) delete slot.load();
}

void Plan::number_values(const std::vector<int64_t>& inputs) {
  for (int64_t bytes : inputs) {
    if (bytes < 0 || bytes > kMostBytes)
      throw std::invalid_argument("an input has " + std::to_string(bytes) + " bytes, expected 0 to 2^48");
    values_.push_back({bytes, -1, -1});
  }
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    if (!step.operation) refuse(i, "has no operation");
    const auto& wanted = step.operation->input_bytes();
    if (std::max(wanted.size(), step.operation->output_bytes().size()) > kMostBuffers) refuse(i, "has too many values");
    if (step.inputs.size() != wanted.size())
      refuse(i, "reads " + std::to_string(step.inputs.size()) + " values, expected " + std::to_string(wanted.size()));
    for (size_t k = 0; k < wanted.size(); ++k) {
      const int64_t value = step.inputs[k];
      if (value < 0 || value >= static_cast<int64_t>(values_.size()))
        refuse(i, "reads value " + std::to_string(value) + ", expected one made before");
      if (values_[value].bytes != wanted[k])
        refuse(i, "reads value " + std::to_string(value) + " of " + std::to_string(values_[value].bytes) +
                      " bytes per image, expected " + std::to_string(wanted[k]));
      values_[value].last = static_cast<int64_t>(i);
    }
    results_.emplace_back();
    for (int64_t bytes : step.operation->output_bytes()) {
      results_.back().push_back(static_cast<int64_t>(values_.size()));
      values_.push_back({bytes, static_cast<int64_t>(i), static_cast<int64_t>(i)});
    }
  }
  for (int64_t output : outputs_) {
    if (output < 0 || output >= static_cast<int64_t>(values_.size()))
      throw std::invalid_argument("output " + std::to_string(output) + " is no value");
    values_[output].last = static_cast<int64_t>(steps_.size());
  }
}

// Values that can stay in the caller's buffers: inputs and outputs that only operations with exact reads touch. All
// other inputs are copied into the arena first, all other outputs out of it at the end.
void Plan::choose_outside() {
  std::vector<bool> exact(values_.size(), true);
  for (const Step& step : steps_)
    for (int64_t value : step.inputs)
      if (!step.operation->exact_reads()) exact[value] = false;
  const auto inputs = static_cast<int64_t>(input_bytes_.size());
  for (int64_t i = 0; i < inputs; ++i)
    if (exact[i]) values_[i].input = i;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const int64_t value = outputs_[i];
    if (value >= inputs && exact[value] && values_[value].output < 0) values_[value].output = static_cast<int64_t>(i);
  }
}

// Results that take the place of a value that nobody reads any more; `over` is the first of all that lay there.
void Plan::write_over() {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const int which = steps_[i].operation->in_place();
    if (which < 0) continue;
    const std::vector<int64_t>& reads = steps_[i].inputs;
    const int64_t index = reads[which];
    Value &before = values_[index], &after = values_[results_[i][0]];
    if (before.last != static_cast<int64_t>(i) || before.input >= 0 || after.output >= 0 || before.bytes != after.bytes)
      continue;
    if (std::count(reads.begin(), reads.end(), index) > 1) continue;
    after.over = before.over >= 0 ? before.over : index;
    values_[after.over].last = after.last;
  }
}

// The largest first, each into the tightest gap between those that are alive at the same time.
void Plan::place() {
  std::vector<int64_t> order;
  for (size_t i = 0; i < values_.size(); ++i)
    if (values_[i].input < 0 && values_[i].output < 0 && values_[i].over < 0) order.push_back(static_cast<int64_t>(i));
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return values_[a].bytes > values_[b].bytes; });
  std::vector<int64_t> placed;  // by offset
  for (int64_t index : order) {
    Value& value = values_[index];
    const int64_t bytes = round_up(value.bytes, kAlignment);
    int64_t end = 0, best = -1, tightest = std::numeric_limits<int64_t>::max();
    for (int64_t other : placed) {
      const Value& there = values_[other];
      if (there.last < value.made || value.last < there.made) continue;
      const int64_t gap = there.offset - end;
      if (gap >= bytes && gap < tightest) {
        tightest = gap;
        best = end;
      }
      end = std::max(end, there.offset + round_up(there.bytes, kAlignment));
    }
    value.offset = best >= 0 ? best : end;
    arena_bytes_ = std::max(arena_bytes_, value.offset + bytes);
    if (arena_bytes_ > kMostBytes) throw std::invalid_argument("the values have more than 2^48 bytes per image");
    const auto at = std::upper_bound(placed.begin(), placed.end(), value.offset,
                                     [&](int64_t offset, int64_t other) { return offset < values_[other].offset; });
    placed.insert(at, index);
  }
  for (Value& value : values_)
    if (value.over >= 0) value.offset = values_[value.over].offset;
}

int64_t Plan::idle_bytes() const {
  int64_t bytes = 0;
  for (auto& slot : idle_)
    if (Arena* arena = slot.exchange(nullptr)) {
      bytes += arena->memory.bytes();
      give_back(std::unique_ptr<Arena>(arena));
    }
  return bytes;
}

std::unique_ptr<Plan::Arena> Plan::take(int64_t images) const {
  for (auto& slot : idle_)
    if (std::unique_ptr<Arena> arena{slot.exchange(nullptr, std::memory_order_acquire)}) {
      if (arena->images >= images) return arena;
      break;  // too small: its place is taken by a larger one
    }
  return std::make_unique<Arena>(Arena{images, Aligned<uint8_t>(images * arena_bytes_ + BUFFER_SLACK)});
}

void Plan::give_back(std::unique_ptr<Arena> arena) const {
  for (auto& slot : idle_) {
    Arena* none = nullptr;
    if (slot.compare_exchange_strong(none, arena.get(), std::memory_order_release)) {
      arena.release();
      return;
    }
  }
}

void Plan::run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const {
  run_timed(inputs, outputs, batch, threads, nullptr);
}

void Plan::run_timed(const void* const* inputs, void* const* outputs, int64_t batch, int threads,
                     std::vector<double>* seconds) const {
  if (batch == 0) return;
  const int64_t passes = (batch + pass_images_ - 1) / pass_images_, images = (batch + passes - 1) / passes;
  std::unique_ptr<Arena> arena = take(images);
  for (int64_t first = 0; first < batch; first += images)
    pass(arena.get(), inputs, outputs, first, std::min(images, batch - first), threads, seconds);
  give_back(std::move(arena));
}

void Plan::pass(Arena* arena, const void* const* inputs, void* const* outputs, int64_t first, int64_t images,
                int threads, std::vector<double>* seconds) const {
  const auto at = [&](int64_t index) -> uint8_t* {
    const Value& value = values_[index];
    if (value.input >= 0)
      return const_cast<uint8_t*>(static_cast<const uint8_t*>(inputs[value.input])) + first * value.bytes;
    if (value.output >= 0) return static_cast<uint8_t*>(outputs[value.output]) + first * value.bytes;
    return arena->memory.data() + value.offset * images;
  };
  for (size_t i = 0; i < input_bytes_.size(); ++i)
    if (values_[i].input < 0)
      std::memcpy(at(i), static_cast<const uint8_t*>(inputs[i]) + first * input_bytes_[i], images * input_bytes_[i]);
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const void* in[kMostBuffers];
    void* out[kMostBuffers];
    for (size_t k = 0; k < step.inputs.size(); ++k) in[k] = at(step.inputs[k]);
    for (size_t k = 0; k < results_[i].size(); ++k) out[k] = at(results_[i][k]);
    const auto begin = seconds ? Clock::now() : Clock::time_point();
    step.operation->run(in, out, images, threads);
    if (seconds) (*seconds)[i] += std::chrono::duration<double>(Clock::now() - begin).count();
  }
  for (size_t i = 0; i < outputs_.size(); ++i)
    if (values_[outputs_[i]].output != static_cast<int64_t>(i))
      std::memcpy(static_cast<uint8_t*>(outputs[i]) + first * output_bytes_[i], at(outputs_[i]),
                  images * output_bytes_[i]);
}
