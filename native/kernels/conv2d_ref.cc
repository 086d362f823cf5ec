// Convolution, as for-loops. Normative.
#include "epilogue_ref.h"
#include "kernels.h"

// sums[width]: one output pixel, all channels of one block. `image` is [H][W][C], `weights` the block.
static void pixel(const Conv2dShape* s, const float* image, const float* weights, int64_t width, int64_t first_channel,
                  int64_t oy, int64_t ox, float* sums) {
  const int64_t channels = s->in_c / s->groups;
  for (int64_t lane = 0; lane < width; ++lane) sums[lane] = 0;
  for (int64_t ky = 0; ky < s->kernel_h; ++ky) {
    for (int64_t kx = 0; kx < s->kernel_w; ++kx) {
      const int64_t iy = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
      const int64_t ix = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
      if (iy < 0 || iy >= s->in_h || ix < 0 || ix >= s->in_w) continue;  // the padding is zero
      const float* x = image + (iy * s->in_w + ix) * s->in_c + first_channel;
      const float* w = weights + (ky * s->kernel_w + kx) * channels * width;
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t lane = 0; lane < width; ++lane) sums[lane] += x[c] * w[c * width + lane];
    }
  }
}

void conv2d_ref(CONV2D_ARGUMENTS) {
  (void)scratch;
  const Conv2dShape* s = shape;
  const int64_t in_c = s->in_c / s->groups, out_c = s->out_c / s->groups;
  const int64_t taps = s->kernel_h * s->kernel_w * in_c;
  const float* image = x + task->image * s->in_h * s->in_w * s->in_c;
  for (int64_t b = task->block0; b < task->block1; ++b) {
    const int64_t group = b / block_count(out_c), block = b % block_count(out_c);
    const int64_t width = block_width(out_c, block);
    const int64_t left = out_c - block * BLOCK;
    const float* w = weights + (group * padded_channels(out_c) + block * BLOCK) * taps;
    for (int64_t oy = task->row0; oy < task->row1; ++oy) {
      for (int64_t ox = 0; ox < s->out_w; ++ox) {
        float sums[BLOCK];
        pixel(s, image, w, width, group * in_c, oy, ox, sums);
        for (int64_t lane = 0; lane < width && lane < left; ++lane) {
          const int64_t channel = group * out_c + block * BLOCK + lane;
          const int64_t position = ((task->image * s->out_h + oy) * s->out_w + ox) * s->out_c + channel;
          out[position] = finish(epilogue, sums[lane], channel, position);
        }
      }
    }
  }
}
