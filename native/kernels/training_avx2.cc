// One pass over a tensor in training, AVX2.
#include "training_loops.h"

void training_avx2(const TrainingCall* call) { return call->half ? run<uint16_t>(call) : run<float>(call); }
