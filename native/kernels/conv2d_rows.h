// The padded input rows of a convolution task.
//
// Rows are reached through pointers: to the image itself, to a copy padded sideways with zeros, or to one shared row of
// zeros above and below. The inner loops then have neither borders nor branches.
#pragma once
#include <string.h>

#include "kernels.h"

// rows[i] = padded input row for i = 0 .. conv2d_input_rows - 1, counted from the task's first.
static inline void prepare_rows(const Conv2dShape* s, const float* image, const Conv2dTask* task, void* scratch) {
  const int64_t count = conv2d_input_rows(s, task->row1 - task->row0);
  const int64_t length = conv2d_padded_row(s), border = s->pad_w * s->in_c, inner = s->in_w * s->in_c;
  const float** rows = (const float**)scratch;
  float* zeros = (float*)((char*)scratch + (count * sizeof(float*) + 63) / 64 * 64);
  float* copy = zeros + length;
  if (s->pad_h) memset(zeros, 0, length * sizeof(float));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t iy = task->row0 * s->stride_h - s->pad_h + i;
    if (iy < 0 || iy >= s->in_h) {
      rows[i] = zeros;
    } else if (!border) {
      rows[i] = image + iy * inner;
    } else {
      memset(copy, 0, border * sizeof(float));
      memcpy(copy + border, image + iy * inner, inner * sizeof(float));
      memset(copy + border + inner, 0, border * sizeof(float));
      rows[i] = copy;
      copy += length;
    }
  }
}

static inline int64_t clamp(int64_t v, int64_t low, int64_t high) { return v < low ? low : v < high ? v : high; }

// Of the kernel rows, [begin, end) meet the image from output row oy.
typedef struct {
  int64_t begin, end;
} KernelRows;

static inline KernelRows kernel_rows(const Conv2dShape* s, int64_t oy) {
  const int64_t above = s->pad_h - oy * s->stride_h, below = above + s->in_h, d = s->dilation_h;
  KernelRows r = {above <= 0 ? 0 : clamp((above + d - 1) / d, 0, s->kernel_h),
                  below <= 0 ? 0 : clamp((below + d - 1) / d, 0, s->kernel_h)};
  return r;
}
