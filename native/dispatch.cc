// Which variant runs, and how a call is cut into tasks. The only file that chooses by CPU.
//
// Cutting never changes a result: each output is computed by one task, with additions in an order that does not depend
// on the others.
#include "dispatch.h"

#include <algorithm>
#include <ctime>
#include <vector>

#include "ceil_div.h"
#include "cpu.h"
#include "kernels/parts.h"
#include "parallel.h"

namespace {

// Below this many multiplications a call takes less time than waking a thread.
constexpr int64_t kWorthThread = 200'000;
constexpr int64_t kElementsPerTask = 1 << 15;

// Tasks to aim at. Several per thread, so that one that the system holds up leaves its share to the others.
int64_t wanted_tasks(int threads) { return threads > 1 ? 4 * int64_t{threads} : 1; }

// Output rows per task: the input rows they need stay in the second-level cache, beside a block of weights, while all
// output channels pass over them.
int64_t conv_rows(const Conv2dShape& s, int threads) {
  constexpr int64_t kRowBytes = 256 * 1024;
  const int64_t row = std::max<int64_t>(conv2d_padded_row(&s) * static_cast<int64_t>(sizeof(float)), 1);
  const int64_t halo = (s.kernel_h - 1) * s.dilation_h + 1;
  int64_t rows = std::max<int64_t>((kRowBytes / row - halo) / s.stride_h + 1, 2);
  if (threads > 1) rows = std::min(rows, std::max<int64_t>(s.out_h * s.batch / wanted_tasks(threads), 2));
  rows = std::min(rows, s.out_h);
  return ceil_div(s.out_h, ceil_div(s.out_h, rows));  // tasks of about one size
}

int64_t conv_blocks(const Conv2dShape& s, const Conv2dWeights& weights) {
  return weights.depthwise ? block_count(s.out_c) : s.groups * block_count(s.out_c / s.groups);
}

int64_t conv_scratch(const Conv2dShape& s, const Conv2dWeights& weights, int64_t rows) {
  return weights.in_parts ? parts_scratch(&s, rows).end : conv2d_scratch(&s, rows);
}

}  // namespace

int useful_threads(int threads, int64_t multiplications) {
  return static_cast<int>(std::clamp<int64_t>(multiplications / kWorthThread, 1, threads));
}

int64_t conv_task_rows(const Conv2dShape& s, int threads) { return conv_rows(s, threads); }

void run_conv_tasks(const Conv2dShape& s, int64_t blocks, int threads,
                    const std::function<void(const Conv2dTask&)>& body) {
  const int64_t rows = conv_rows(s, threads), row_tasks = ceil_div(s.out_h, rows);
  // Few rows: the channels are divided too.
  const int64_t parts = std::clamp<int64_t>(ceil_div(wanted_tasks(threads), s.batch * row_tasks), 1, blocks);
  parallel_for(s.batch * row_tasks * parts, threads, [&](int64_t index) {
    const int64_t part = index % parts, chunk = index / parts % row_tasks, image = index / parts / row_tasks;
    body({image, chunk * rows, std::min((chunk + 1) * rows, s.out_h), blocks * part / parts,
          blocks * (part + 1) / parts});
  });
}

bool has_tiles() { return current_isa() >= Isa::amx; }

Conv2dKernel conv2d_kernel(const Conv2dWeights& weights) {
  const bool depthwise = weights.depthwise;
#if defined(__x86_64__)
  if (weights.in_parts) return conv2d_amx;
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return depthwise ? depthwise_avx512 : conv2d_avx512;
  if (isa == Isa::avx2) return depthwise ? depthwise_avx2 : conv2d_avx2;
#endif
  return depthwise ? depthwise_ref : conv2d_ref;
}

LinearKernel linear_kernel() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return linear_avx512;
  if (isa == Isa::avx2) return linear_avx2;
#endif
  return linear_ref;
}

int conv2d_threads(const Conv2dShape& s, const Conv2dWeights& weights, int threads) {
  const int64_t taps = s.kernel_h * s.kernel_w * weights.group_c;
  return useful_threads(threads, s.batch * s.out_h * s.out_w * s.out_c * taps);
}

void run_conv2d(Conv2dKernel kernel, const Conv2dShape& s, const Conv2dWeights& weights, const Epilogue& epilogue,
                const float* x, float* out, int threads) {
  if (s.batch == 0) return;
  threads = conv2d_threads(s, weights, threads);
  const size_t scratch = conv_scratch(s, weights, conv_rows(s, threads));
  run_conv_tasks(s, conv_blocks(s, weights), threads, [&](const Conv2dTask& task) {
    kernel(&s, weights.packed.data(), &epilogue, x, out, &task, thread_scratch(scratch));
  });
}

int64_t conv2d_rows_scratch(const Conv2dShape& s, const Conv2dWeights& weights, int64_t rows) {
  return conv_scratch(s, weights, std::min(rows, conv_rows(s, 1)));
}

void run_conv2d_rows(Conv2dKernel kernel, const Conv2dShape& s, const Conv2dWeights& weights, const Epilogue& epilogue,
                     const float* x, float* out, int64_t image, int64_t row0, int64_t row1, void* scratch) {
  const int64_t rows = conv_rows(s, 1);
  for (int64_t row = row0; row < row1; row += rows) {
    const Conv2dTask task = {image, row, std::min(row + rows, row1), 0, conv_blocks(s, weights)};
    kernel(&s, weights.packed.data(), &epilogue, x, out, &task, scratch);
  }
}

void run_linear(LinearKernel kernel, int64_t batch, const LinearWeights& w, const Epilogue& epilogue, const float* x,
                float* out, int threads) {
  // Samples per task: their inputs stay in the second-level cache while all weights pass over them.
  constexpr int64_t kSamples = 70;
  if (batch == 0 || w.out_c == 0) return;
  threads = useful_threads(threads, batch * w.in_c * w.out_c);
  const int64_t blocks = block_count(w.out_c), chunks = ceil_div(batch, kSamples);
  const int64_t parts = std::clamp<int64_t>(ceil_div(wanted_tasks(threads), chunks), 1, blocks);
  parallel_for(chunks * parts, threads, [&](int64_t index) {
    const int64_t part = index % parts, chunk = index / parts;
    const LinearTask task = {batch * chunk / chunks, batch * (chunk + 1) / chunks, blocks * part / parts,
                             blocks * (part + 1) / parts};
    kernel(w.in_c, w.out_c, w.packed.data(), &epilogue, x, out, &task);
  });
}

Pool2dKernel pool2d_kernel() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return pool2d_avx512;
  if (isa == Isa::avx2) return pool2d_avx2;
#endif
  return pool2d_ref;
}

void run_pool2d(Pool2dKernel kernel, int64_t batch, const PoolShape& s, const float* x, float* out, int threads) {
  const int64_t in = s.in_h * s.in_w * s.channels, row = s.out_w * s.channels * s.kernel_h * s.kernel_w;
  const int64_t rows = std::clamp<int64_t>(kElementsPerTask / std::max<int64_t>(row, 1), 1, s.out_h);
  const int64_t parts = ceil_div(s.out_h, rows);
  parallel_for(batch * parts, useful_threads(threads, batch * s.out_h * row), [&](int64_t task) {
    const int64_t image = task / parts, row0 = task % parts * rows;
    kernel(&s, x + image * in, out + image * s.out_h * s.out_w * s.channels, row0, std::min(row0 + rows, s.out_h));
  });
}

void run_training(const TrainingCall& call, int threads) {
  auto* kernel = training_ref;
#if defined(__x86_64__)
  const Isa isa = current_isa();
  kernel = isa >= Isa::avx512 ? training_avx512 : isa == Isa::avx2 ? training_avx2 : training_ref;
#endif
  const auto [pixels, channels] = call.shape;
  const int64_t bytes = channels * (call.half ? 2 : 4);
  const int64_t rows = std::max<int64_t>(kElementsPerTask / channels, 1), chunks = ceil_div(pixels, rows);
  const int64_t kinds = call.operation == TRAIN_RPRELU_BACK ? 3 : call.operation == TRAIN_SUM ? 1 : 0;
  std::vector<float> sums(chunks * kinds * channels);
  parallel_for(chunks, useful_threads(threads, 4 * pixels * channels), [&](int64_t chunk) {
    TrainingCall part = call;
    const int64_t offset = chunk * rows * bytes;
    part.shape.pixels = std::min(rows, pixels - chunk * rows);
    part.x = static_cast<const char*>(call.x) + offset;
    if (call.gradient) part.gradient = static_cast<const char*>(call.gradient) + offset;
    if (call.result) part.result = static_cast<char*>(call.result) + offset;
    part.sums = sums.data() + chunk * kinds * channels;
    kernel(&part);
  });
  for (int64_t i = 0; i < kinds * channels; ++i) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk * kinds * channels + i];
    call.sums[i] = static_cast<float>(sum);
  }
}

ElementwiseKernel elementwise_kernel() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return elementwise_avx512;
  if (isa == Isa::avx2) return elementwise_avx2;
#endif
  return elementwise_ref;
}

void run_elementwise(ElementwiseKernel kernel, const Elementwise& work, int threads) {
  const int64_t channels = std::max<int64_t>(work.channels, 1);
  const int64_t step = std::max<int64_t>(kElementsPerTask / channels, 1);
  const int64_t size = work.kind == ELEMENTWISE_NORMALIZE ? 1 : sizeof(float);
  parallel_for(ceil_div(work.rows, step), useful_threads(threads, work.rows * channels), [&](int64_t task) {
    const int64_t row = task * step, first = row * work.channels;
    Elementwise part = work;
    part.rows = std::min(step, work.rows - row);
    part.x = static_cast<const char*>(work.x) + first * size;
    const bool rows = work.kind == ELEMENTWISE_ADD_ROWS || work.kind == ELEMENTWISE_MUL_ROWS;
    if (work.other) part.other = work.other + (rows ? row : first);
    part.out = work.out + first;
    kernel(&part);
  });
}

ChannelNormKernel channel_norm_kernel() {
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512) return channel_norm_avx512;
  if (isa == Isa::avx2) return channel_norm_avx2;
#endif
  return channel_norm_ref;
}

void run_channel_norm(ChannelNormKernel kernel, int64_t batch, const ChannelNorm& norm, const float* x, float* out,
                      int threads) {
  const int64_t pixels = batch * norm.pixels, scratch = channel_norm_scratch(&norm);
  const int64_t step = norm.kind == NORM_GROUPS  // an image is one piece of work, or each pixel
                           ? norm.pixels : std::max<int64_t>(kElementsPerTask / norm.channels, 1);
  parallel_for(ceil_div(pixels, step), useful_threads(threads, pixels * norm.channels), [&](int64_t task) {
    const int64_t first = task * step;
    ChannelNorm part = norm;
    part.pixels = std::min(step, pixels - first);
    kernel(&part, x + first * norm.channels, out + first * norm.channels, thread_scratch(scratch));
  });
}

double fma_seconds(double operations) {
  constexpr int64_t kTurns = 1000;
  auto kernel = fma_peak_ref;
#if defined(__x86_64__)
  const Isa isa = current_isa();
  if (isa >= Isa::avx512)
    kernel = fma_peak_avx512;
  else if (isa == Isa::avx2)
    kernel = fma_peak_avx2;
#endif
  const auto now = [] {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  double done = 0;
  volatile float result = 0;
  const double start = now();
  while (done < operations) {
    double some;
    result = result + kernel(kTurns, &some);
    done += some;
  }
  return (now() - start) * operations / done;
}
