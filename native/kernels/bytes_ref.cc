// Convolution of byte codes: the definition.
#include "bytes.h"
#include "code_rows.h"
#include "sums_ref.h"

// The sum of number * weight; with a sign (1 or -1) the sum of the numbers whose weight it is.
static int32_t window_sum(const ByteConv* c, const uint8_t* image, int64_t oy, int64_t ox, int64_t channel, int sign) {
  const Conv2dShape* s = &c->shape;
  const int64_t channels = s->in_c / s->groups, group = channel / (s->out_c / s->groups);
  const int8_t* weights = (const int8_t*)c->weights + channel * channels * s->kernel_h * s->kernel_w;
  int64_t sum = 0;
  for (int64_t ci = 0; ci < channels; ++ci)
    for (int64_t ky = 0; ky < s->kernel_h; ++ky)
      for (int64_t kx = 0; kx < s->kernel_w; ++kx) {
        const int64_t weight = *weights++, y = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
        const int64_t x = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
        const int inside = y >= 0 && y < s->in_h && x >= 0 && x < s->in_w;
        const int64_t at = ((c->x.top + y) * code_columns(&c->x) + c->x.left + x) * code_pixel_units(&c->x) +
                           group * code_group_units(&c->x) + ci;
        const int64_t number = inside ? c->low + c->step * (int64_t)image[at] : c->padding;
        if (!sign)
          sum += number * weight;
        else if (sign == weight)
          sum += number;
      }
  return (int32_t)sum;
}

static void one_pixel(const ByteConv* c, const SumEpilogue* e, const uint8_t* x, const ByteTask* task, int64_t n,
                      int64_t oy, int64_t ox) {
  const int64_t pixel = (n * c->shape.out_h + oy) * c->shape.out_w + ox;
  const uint8_t* image = x + n * code_image_bytes(&c->x);
  for (int64_t b = task->block0; b < task->block1; ++b) {
    const int64_t channels = byte_group_channels(c), group = b / byte_group_blocks(c);
    const int64_t first = b % byte_group_blocks(c) * byte_block_channels(c);
    for (int64_t i = first; i < first + byte_block_channels(c) && i < channels; ++i) {
      const int64_t o = group * channels + i, position = pixel * c->shape.out_c + o;
      const int32_t sum = window_sum(c, image, oy, ox, o, c->two ? 1 : 0);
      const float y = sum_value(e, sum, c->two ? window_sum(c, image, oy, ox, o, -1) : 0, o, position);
      if (e->out) e->out[position] = y;
      if (e->encode.kind == ENCODE_NONE) continue;
      const CodeLayout* l = &e->encode.layout;
      uint8_t* codes = (uint8_t*)e->codes + n * code_image_bytes(l);
      put_code(l, codes, code_pixel(l, oy, ox), o, encode_value(&e->encode, y, o));
    }
  }
}

// Tasks of the reference have all channels.
void bytes_ref(BYTES_ARGUMENTS) {
  (void)scratch;
  for (int64_t n = task->image0; n < task->image1; ++n) {
    const CodeLayout* l = &epilogue->encode.layout;
    if (epilogue->encode.kind != ENCODE_NONE)
      clear_rows(l, (uint8_t*)epilogue->codes + n * code_image_bytes(l), task->row0, task->row1, 1);
    for (int64_t oy = task->row0; oy < task->row1; ++oy)
      for (int64_t ox = 0; ox < conv->shape.out_w; ++ox) one_pixel(conv, epilogue, x, task, n, oy, ox);
  }
}
