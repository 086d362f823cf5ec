// Matrix product, as for-loops. Normative.
#include "epilogue_ref.h"
#include "kernels.h"

void linear_ref(LINEAR_ARGUMENTS) {
  for (int64_t n = task->n0; n < task->n1; ++n) {
    for (int64_t block = task->block0; block < task->block1; ++block) {
      const int64_t width = block_width(out_c, block);
      const float* w = weights + block * BLOCK * in_c;
      float sums[BLOCK] = {0};
      for (int64_t c = 0; c < in_c; ++c)
        for (int64_t lane = 0; lane < width; ++lane) sums[lane] += x[n * in_c + c] * w[c * width + lane];
      for (int64_t lane = 0; lane < width && block * BLOCK + lane < out_c; ++lane) {
        const int64_t channel = block * BLOCK + lane;
        out[n * out_c + channel] = finish(epilogue, sums[lane], channel, n * out_c + channel);
      }
    }
  }
}
