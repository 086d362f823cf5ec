// What a loaded model executes: operations in order, on values that lie in one arena.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "operation.h"
#include "weights.h"

// Values are numbered: the inputs, then what each step makes. Values that are not alive together share memory. An arena
// is taken for every call and given back, so that calls from several threads run side by side; once as many arenas of
// the largest batch exist as there are calls at a time, nothing is allocated any more.
class Plan {
 public:
  struct Step {
    std::shared_ptr<Operation> operation;
    std::vector<int64_t> inputs;
  };

  // `inputs`: bytes per image. `outputs`: the values that the caller is given. A batch is worked through in passes
  // whose arena has about `pass_bytes`, to stay in the cache. Throws std::invalid_argument if steps do not fit their
  // values.
  Plan(const std::vector<int64_t>& inputs, std::vector<Step> steps, std::vector<int64_t> outputs, int64_t pass_bytes);
  ~Plan();

  const std::vector<int64_t>& input_bytes() const { return input_bytes_; }
  const std::vector<int64_t>& output_bytes() const { return output_bytes_; }
  size_t step_count() const { return steps_.size(); }
  int64_t arena_bytes() const { return arena_bytes_; }  // per image
  int64_t pass_images() const { return pass_images_; }
  // Bytes of the arenas that wait for the next call.
  int64_t idle_bytes() const;

  // The buffers of the caller hold `batch` images, aligned to their elements. Thread-safe.
  void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const;
  // The same, and adds the seconds of each step to `seconds`.
  void run_timed(const void* const* inputs, void* const* outputs, int64_t batch, int threads,
                 std::vector<double>* seconds) const;

 private:
  static constexpr int64_t kOutside = -1;

  // Where a value lies: in the arena, or (offset kOutside) in a buffer of the caller.
  struct Value {
    int64_t bytes;              // per image
    int64_t made, last;         // steps: -1 an input, steps_.size() read when all is done
    int64_t offset = kOutside;  // per image, a multiple of 64
    int64_t input = -1, output = -1;
    int64_t over = -1;          // the value that it is written over
  };
  struct Arena {
    int64_t images;
    Aligned<uint8_t> memory;
  };

  std::vector<Value> values_;
  std::vector<Step> steps_;
  std::vector<std::vector<int64_t>> results_;  // of each step
  std::vector<int64_t> outputs_, input_bytes_, output_bytes_;
  int64_t arena_bytes_ = 0, pass_images_ = 1;
  // A forked child may find an arena lost in one of these, but never a lock.
  mutable std::array<std::atomic<Arena*>, 16> idle_ = {};

  void number_values(const std::vector<int64_t>& inputs);
  void choose_outside();
  void write_over();
  void place();
  std::unique_ptr<Arena> take(int64_t images) const;
  void give_back(std::unique_ptr<Arena> arena) const;
  void pass(Arena* arena, const void* const* inputs, void* const* outputs, int64_t first, int64_t images, int threads,
            std::vector<double>* seconds) const;
};
