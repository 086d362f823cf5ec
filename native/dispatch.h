// The dispatched kernels: whole calls, divided among threads. Arguments are trusted.
#pragma once
#include <cstdint>

#include "kernels.h"
#include "weights.h"

using Conv2dKernel = void (*)(CONV2D_ARGUMENTS);
using LinearKernel = void (*)(LINEAR_ARGUMENTS);
// The variants for the level that is current now.
Conv2dKernel conv2d_kernel(bool depthwise);
LinearKernel linear_kernel();

void run_conv2d(Conv2dKernel kernel, const Conv2dShape& shape, const Conv2dWeights& weights, const Epilogue& epilogue,
                const float* x, float* out, int threads);
void run_linear(LinearKernel kernel, int64_t batch, const LinearWeights& weights, const Epilogue& epilogue, const float* x,
                float* out, int threads);
void run_sparse_linear(int64_t batch, const SparseLinearWeights& weights, const Epilogue& epilogue, const float* x, float* out,
                       int threads);

using PoolKernel = void (*)(const PoolShape*, const float*, float*);
void run_pool(PoolKernel kernel, int64_t batch, const PoolShape& shape, const float* x, float* out, int threads);
// x, out: [rows][channels]
void run_normalize(int64_t rows, int64_t channels, const uint8_t* x, const float* scale, const float* shift, float* out,
                   int threads);
void run_affine(int64_t rows, int64_t channels, const float* x, const float* scale, const float* shift, float* out, int threads);
void run_relu(int64_t count, const float* x, float* out, int threads);
void run_add(int64_t count, const float* a, const float* b, float* out, int threads);
