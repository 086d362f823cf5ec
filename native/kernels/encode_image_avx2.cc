// Images to codes, for AVX2.
#include <string.h>

#include "vec_avx2.h"

#include "sums_avx2.h"

#include "lane_bits_avx2.h"

#include "encode_simd.h"

#include "encode_image_simd.h"

void encode_image_avx2(ENCODE_IMAGE_ARGUMENTS) { encode_image(e, x, uint8, channel_step, pixels, codes); }
