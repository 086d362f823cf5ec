// Max pooling of codes. Those of planes are compared a word of channels at a time.
#include <string.h>

#include "bits.h"

// Of bytes; of words of one plane.
static inline uint8_t larger(uint8_t a, uint8_t b) { return a > b ? a : b; }
static inline uint32_t larger(uint32_t a, uint32_t b) { return a | b; }

// a = max(a, b) for pixels side by side in a, `step` units apart in b. The compiler makes vectors of the loop over
// units where it knows their number.
template <int UNITS, class T>
static void maximum_of_units(int64_t pixels, int64_t units, int64_t step, const T* b, T* a) {
  const int64_t count = UNITS ? UNITS : units;
  for (int64_t p = 0; p < pixels; ++p, a += count, b += step)
    for (int64_t i = 0; i < count; ++i) a[i] = larger(a[i], b[i]);
}

template <class T>
static void maximum_of_pixels(int64_t pixels, int64_t units, int64_t step, const T* b, T* a) {
  switch (units) {
    case 1: return maximum_of_units<1>(pixels, units, step, b, a);
    case 2: return maximum_of_units<2>(pixels, units, step, b, a);
    case 4: return maximum_of_units<4>(pixels, units, step, b, a);
    case 8: return maximum_of_units<8>(pixels, units, step, b, a);
    case 16: return maximum_of_units<16>(pixels, units, step, b, a);
    case 32: return maximum_of_units<32>(pixels, units, step, b, a);
    case 64: return maximum_of_units<64>(pixels, units, step, b, a);
    default: maximum_of_units<0>(pixels, units, step, b, a);
  }
}

// The same for a word of codes whose bits lie in planes.
static void maximum_of_planes(uint32_t* a, const uint32_t* b, int64_t planes, int64_t a_plane, int64_t b_plane) {
  uint32_t equal = ~0u, greater = 0;  // b against a, from the most significant bit
  for (int64_t n = planes; n-- > 0;) {
    greater |= equal & b[n * b_plane] & ~a[n * a_plane];
    equal &= ~(a[n * a_plane] ^ b[n * b_plane]);
  }
  for (int64_t n = 0; n < planes; ++n)
    a[n * a_plane] = (a[n * a_plane] & ~greater) | (b[n * b_plane] & greater);
}

static uint8_t* code_at(const CodeLayout* l, const void* image, int64_t y, int64_t x) {
  return (uint8_t*)image + (l->planes ? 4 : 1) * ((l->top + y) * code_columns(l) + l->left + x) * code_pixel_units(l);
}

// `pixels` pixels; those of b are `stride` pixels apart.
static void take_row(const CodeLayout* x, const CodeLayout* out, int64_t pixels, int64_t stride, const void* b,
                     void* a) {
  const int64_t units = code_pixel_units(x), step = stride * units;
  if (!x->planes) return maximum_of_pixels(pixels, units, step, (const uint8_t*)b, (uint8_t*)a);
  if (x->planes == 1) return maximum_of_pixels(pixels, units, step, (const uint32_t*)b, (uint32_t*)a);
  const int64_t a_plane = code_plane_units(out), b_plane = code_plane_units(x);
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t i = 0; i < units; ++i)
      maximum_of_planes((uint32_t*)a + p * units + i, (const uint32_t*)b + p * step + i, x->planes, a_plane, b_plane);
}

void pool_codes_portable(const Conv2dShape* s, const CodeLayout* x, const CodeLayout* out, const void* image,
                         void* result) {
  memset(result, 0, code_image_bytes(out));
  for (int64_t oy = 0; oy < out->height; ++oy)
    for (int64_t ky = 0; ky < s->kernel_h; ++ky) {
      const int64_t iy = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
      if (iy < 0 || iy >= s->in_h) continue;
      for (int64_t kx = 0; kx < s->kernel_w; ++kx) {
        // Output pixels [begin, end) see a pixel of the image here.
        const int64_t first = kx * s->dilation_w - s->pad_w, stride = s->stride_w;
        const int64_t begin = first < 0 ? (-first + stride - 1) / stride : 0;
        const int64_t last = first < s->in_w ? (s->in_w - 1 - first) / stride + 1 : 0;
        const int64_t end = last < out->width ? last : out->width;
        if (begin >= end) continue;
        const void* seen = code_at(x, image, iy, begin * stride + first);
        take_row(x, out, end - begin, stride, seen, code_at(out, result, oy, begin));
      }
    }
}
