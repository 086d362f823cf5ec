// The dispatched kernels: whole calls, divided among threads. Arguments are trusted.
#pragma once
#include <cstdint>
#include <functional>

#include "kernels.h"
#include "weights.h"

using Conv2dKernel = void (*)(CONV2D_ARGUMENTS);
using LinearKernel = void (*)(LINEAR_ARGUMENTS);
// The variants for the level that is current now.
Conv2dKernel conv2d_kernel(const Conv2dWeights& weights);
bool has_tiles();
LinearKernel linear_kernel();

void run_conv2d(Conv2dKernel kernel, const Conv2dShape& shape, const Conv2dWeights& weights, const Epilogue& epilogue,
                const float* x, float* out, int threads);
// Calls body(task) for the tasks that a convolution is cut into: some output rows of an image, some of its `blocks` of
// weights. conv_task_rows: of output rows at most in one.
int64_t conv_task_rows(const Conv2dShape& shape, int threads);
void run_conv_tasks(const Conv2dShape& shape, int64_t blocks, int threads,
                    const std::function<void(const Conv2dTask&)>& body);
// How many of `threads` are worth waking.
int useful_threads(int threads, int64_t multiplications);
int conv2d_threads(const Conv2dShape& shape, const Conv2dWeights& weights, int threads);
// Rows [row0, row1) of one image; x and out: the batch. scratch: conv2d_rows_scratch bytes for so many rows.
void run_conv2d_rows(Conv2dKernel kernel, const Conv2dShape& shape, const Conv2dWeights& weights,
                     const Epilogue& epilogue, const float* x, float* out, int64_t image, int64_t row0, int64_t row1,
                     void* scratch);
int64_t conv2d_rows_scratch(const Conv2dShape& shape, const Conv2dWeights& weights, int64_t rows);
void run_linear(LinearKernel kernel, int64_t batch, const LinearWeights& weights, const Epilogue& epilogue,
                const float* x, float* out, int threads);

using Pool2dKernel = void (*)(POOL2D_ARGUMENTS);
Pool2dKernel pool2d_kernel();
void run_pool2d(Pool2dKernel kernel, int64_t batch, const PoolShape& shape, const float* x, float* out, int threads);

// `call` as a whole. Sums are added up in float64 from chunks that do not depend on the threads.
void run_training(const TrainingCall& call, int threads);

using ElementwiseKernel = void (*)(const Elementwise*);
ElementwiseKernel elementwise_kernel();
void run_elementwise(ElementwiseKernel kernel, const Elementwise& work, int threads);

using ChannelNormKernel = void (*)(CHANNEL_NORM_ARGUMENTS);
ChannelNormKernel channel_norm_kernel();
void run_channel_norm(ChannelNormKernel kernel, int64_t batch, const ChannelNorm& norm, const float* x, float* out,
                      int threads);

// Seconds of this thread for so many operations at the peak of the current level: two per multiply-add.
double fma_seconds(double operations);
