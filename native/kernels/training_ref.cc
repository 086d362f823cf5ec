// One pass over a tensor in training, as for-loops.
#include "training_loops.h"

void training_ref(const TrainingCall* call) { return call->half ? run<uint16_t>(call) : run<float>(call); }
