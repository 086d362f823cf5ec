// Images to codes: the normative form.
#include "bits.h"

void encode_image_ref(ENCODE_IMAGE_ARGUMENTS) {
  const int64_t units = code_group_units(&e->layout);
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t c = 0; c < units; ++c) {
      const int64_t at = c * channel_step + i;
      uint32_t code = 0;
      if (c < e->layout.channels)
        code = encode_value(e, uint8 ? (float)((const uint8_t*)x)[at] / 255.0f : ((const float*)x)[at], c);
      codes[i * units + c] = (uint8_t)code;
    }
}
