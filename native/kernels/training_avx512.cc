// One pass over a tensor in training, AVX-512.
#include "training_loops.h"

void training_avx512(const TrainingCall* call) { return call->half ? run<uint16_t>(call) : run<float>(call); }
