// Sparse convolution, as for-loops. Normative.
#include "epilogue_ref.h"
#include "sparse_conv.h"

static float filtered(const SparseConvWeights* w, const float* image, int64_t o, int64_t y, int64_t x) {
  const Conv2dShape* s = &w->shape;
  const int64_t channel = o / (s->out_c / s->groups) * (s->in_c / s->groups);
  float sum = 0;
  for (uint32_t e = w->starts[o]; e < w->starts[o + 1]; ++e) {
    const int64_t kx = w->offsets[e] % s->kernel_w, ky = w->offsets[e] / s->kernel_w % s->kernel_h;
    const int64_t c = channel + w->offsets[e] / s->kernel_w / s->kernel_h;
    const int64_t in_y = y * s->stride_h - s->pad_h + ky * s->dilation_h;
    const int64_t in_x = x * s->stride_w - s->pad_w + kx * s->dilation_w;
    if (in_y < 0 || in_y >= s->in_h || in_x < 0 || in_x >= s->in_w) continue;
    sum += w->values[e] * image[(in_y * s->in_w + in_x) * s->in_c + c];
  }
  return sum;
}

void sparse_conv_ref(SPARSE_CONV_ARGUMENTS) {
  (void)scratch;
  const Conv2dShape* s = &weights->shape;
  const float* image = x + task->image * s->in_h * s->in_w * s->in_c;
  for (int64_t row = task->row; row < task->row + weights->rows && row < s->out_h; ++row)
    for (int64_t column = task->column; column < task->column + weights->tile_columns && column < s->out_w; ++column)
      for (int64_t o = task->o0; o < task->o1; ++o) {
        const int64_t position = ((task->image * s->out_h + row) * s->out_w + column) * s->out_c + o;
        out[position] = finish(epilogue, filtered(weights, image, o, row, column), o, position);
      }
}
