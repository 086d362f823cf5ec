// Images to codes, for AVX-512.
#include <string.h>

#include "vec_avx512.h"

#include "sums_avx512.h"

#include "lane_bits_avx512.h"

#include "encode_simd.h"

#include "encode_image_simd.h"

void encode_image_avx512(ENCODE_IMAGE_ARGUMENTS) { encode_image(e, x, uint8, channel_step, pixels, codes); }
