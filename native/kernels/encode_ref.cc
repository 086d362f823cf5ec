// Floats to codes: the normative form.
#include <string.h>

#include "bits.h"
#include "code_rows.h"

void encode_ref(ENCODE_ARGUMENTS) {
  const CodeLayout* l = &e->layout;
  const int64_t units = code_pixel_units(l), bytes = l->planes ? 4 * units : units, planes = l->planes ? l->planes : 1;
  for (int64_t n = 0; n < planes; ++n) memset(codes + n * 4 * code_plane_units(l), 0, pixels * bytes);
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t c = 0; c < l->channels; ++c)
      put_code(l, codes, i * units, c, encode_value(e, x[i * l->channels + c], c));
}
