// A call of the engine: weights, geometry and kernel chosen once, buffers given at every run.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

class Operation {
 public:
  virtual ~Operation() = default;

  // Bytes per image of what `run` reads and writes, in its order.
  const std::vector<int64_t>& input_bytes() const { return input_bytes_; }
  const std::vector<int64_t>& output_bytes() const { return output_bytes_; }

  // Which kernel was chosen, for people: "conv2d avx512".
  virtual std::string kernel() const { return "portable"; }
  // Bytes of the weights as they lie in memory.
  virtual int64_t weight_bytes() const { return 0; }

  // Whether `run` reads nothing beyond the end of its inputs, so that these may be buffers of someone else.
  virtual bool exact_reads() const { return false; }

  // The input over which the first output may be written, -1 if none: each of its elements is read before the same one
  // of the output is written, once.
  virtual int in_place() const { return -1; }

  // Computes `batch` images. Buffers hold them one after the other, are 64-byte aligned if they hold codes, and may be
  // read BUFFER_SLACK bytes beyond their end. Thread-safe. Allocates nothing but thread_scratch.
  virtual void run(const void* const* inputs, void* const* outputs, int64_t batch, int threads) const = 0;

 protected:
  Operation(std::vector<int64_t> input_bytes, std::vector<int64_t> output_bytes)
      : input_bytes_(std::move(input_bytes)), output_bytes_(std::move(output_bytes)) {}

 private:
  std::vector<int64_t> input_bytes_, output_bytes_;
};

// An operation that can compute some rows of an image of floats, if that is its only output.
class RowOperation : public Operation {
 public:
  virtual bool makes_floats_only() const = 0;
  // Of the image that it makes.
  virtual const Conv2dShape& window() const = 0;
  // How many of `threads` are worth waking for a batch.
  virtual int useful_threads(int64_t batch, int threads) const = 0;
  virtual int64_t rows_scratch(int64_t rows) const = 0;
  // Rows [row0, row1) of one image of the batch, whose first element `image_out` would point to; nothing else of it is
  // touched. scratch: rows_scratch(row1 - row0) bytes, 64-byte aligned.
  virtual void run_rows(const void* const* inputs, int64_t image, int64_t row0, int64_t row1, float* image_out,
                        void* scratch) const = 0;

 protected:
  using Operation::Operation;
};
