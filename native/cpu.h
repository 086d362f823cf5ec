// What this CPU and its operating system can run, and what we let them run.
#pragma once
#include <string>
#include <utility>
#include <vector>

enum class Isa { ref = 0, avx2 = 1, avx512 = 2 };

// Named features; an AVX feature counts only if the operating system saves its registers.
std::vector<std::pair<std::string, bool>> cpu_features();

// The variant that kernels use: the best of the CPU, narrowed by BITWRIGHT_CPU (ref, avx2, avx512), unless set_isa chose.
// Throws std::invalid_argument if BITWRIGHT_CPU has another value.
Isa current_isa();

// Narrows to a named variant; an empty name returns to the default. Throws std::invalid_argument.
void set_isa(const std::string& name);

const char* isa_name(Isa isa);
