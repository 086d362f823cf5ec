// Weights in the order in which the kernels read them. Made once, when a model is loaded.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>

#include "kernels.h"
#include "memory.h"

// Zeroed memory, aligned to a cache line.
template <class T>
class Aligned {
 public:
  Aligned() = default;
  explicit Aligned(int64_t count) : count_(count) {
    const size_t size = static_cast<size_t>(bytes());
    memory_ = {static_cast<T*>(allocate_memory(size)), Free{size}};
    std::memset(memory_.get(), 0, memory_size(size));
  }
  T* data() { return memory_.get(); }
  const T* data() const { return memory_.get(); }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  struct Free {
    size_t bytes = 0;
    void operator()(T* p) const { free_memory(p, bytes); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t count_ = 0;
};

struct Conv2dWeights {
  int64_t out_c, group_c, kernel_h, kernel_w, groups;
  bool depthwise;
  bool in_parts = false;  // packed holds bfloat16 parts, for conv2d_amx
  Aligned<float> packed;
  // weight: [O][C / groups][kernel_h][kernel_w]
  Conv2dWeights(const float* weight, int64_t out_c, int64_t group_c, int64_t kernel_h, int64_t kernel_w,
                int64_t groups);
  // The same for this shape, in parts where conv2d_amx will serve it and all weights are of a size that parts can have.
  Conv2dWeights(const float* weight, const Conv2dShape& shape, bool tiles);

 private:
  void pack_parts(const float* weight, const Conv2dShape& shape);
};

struct LinearWeights {
  int64_t out_c, in_c;
  Aligned<float> packed;
  LinearWeights(const float* weight, int64_t out_c, int64_t in_c);  // weight: [O][C]
};

struct SparseLinearWeights {
  int64_t rows, cols, entries;
  Aligned<uint32_t> starts;
  Aligned<uint16_t> columns16;
  Aligned<uint32_t> columns32;
  Aligned<uint8_t> codes8;
  Aligned<uint16_t> codes16;
  Aligned<float> table;
  SparseMatrix matrix;
  // positions: ascending, row * cols + column. Either kind of codes with a table, or a table of one value per entry.
  // by_blocks: the order of the entries, see SparseMatrix.
  SparseLinearWeights(int64_t rows, int64_t cols, int64_t entries, const int64_t* positions, const uint8_t* codes8,
                      const uint16_t* codes16, const float* table, int64_t table_size, bool by_blocks);
  int64_t bytes() const;
};
