// Max pooling of codes. Those of planes are compared a word of channels at a time.
#include <string.h>

#include "bits.h"

// a = max(a, b) of codes whose bits lie in planes.
static void maximum_of_planes(uint32_t* a, const uint32_t* b, int64_t planes, int64_t a_plane, int64_t b_plane) {
  uint32_t equal = ~0u, greater = 0;  // b against a, from the most significant bit
  for (int64_t n = planes; n-- > 0;) {
    greater |= equal & b[n * b_plane] & ~a[n * a_plane];
    equal &= ~(a[n * a_plane] ^ b[n * b_plane]);
  }
  for (int64_t n = 0; n < planes; ++n)
    a[n * a_plane] = (a[n * a_plane] & ~greater) | (b[n * b_plane] & greater);
}

static void maximum_of_pixels(const CodeLayout* x, const CodeLayout* out, const uint8_t* b, uint8_t* a) {
  const int64_t units = code_pixel_units(x);
  if (!x->planes) {
    for (int64_t i = 0; i < units; ++i) a[i] = a[i] > b[i] ? a[i] : b[i];
    return;
  }
  for (int64_t i = 0; i < units; ++i)
    maximum_of_planes((uint32_t*)a + i, (const uint32_t*)b + i, x->planes, code_plane_units(out), code_plane_units(x));
}

static uint8_t* code_at(const CodeLayout* l, const void* image, int64_t y, int64_t x) {
  return (uint8_t*)image + (l->planes ? 4 : 1) * ((l->top + y) * code_columns(l) + l->left + x) * code_pixel_units(l);
}

void pool_codes_portable(const Conv2dShape* s, const CodeLayout* x, const CodeLayout* out, const void* image, void* result) {
  memset(result, 0, code_image_bytes(out));
  for (int64_t oy = 0; oy < out->height; ++oy)
    for (int64_t ox = 0; ox < out->width; ++ox)
      for (int64_t ky = 0; ky < s->kernel_h; ++ky)
        for (int64_t kx = 0; kx < s->kernel_w; ++kx) {
          const int64_t iy = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
          const int64_t ix = ox * s->stride_w + kx * s->dilation_w - s->pad_w;
          if (iy < 0 || iy >= s->in_h || ix < 0 || ix >= s->in_w) continue;
          maximum_of_pixels(x, out, code_at(x, image, iy, ix), code_at(out, result, oy, ox));
        }
}
