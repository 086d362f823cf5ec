// What this CPU and its operating system can run, and what we let them run.
#pragma once
#include <string>
#include <utility>
#include <vector>

// Each contains those before it: AVX2 with FMA and F16C (Haswell, Zen), AVX-512 F BW VL DQ (Skylake server), with VNNI
// (Cascade Lake), with VPOPCNTDQ (Ice Lake, Zen 4), with AMX for int8 and bfloat16 (Sapphire Rapids).
enum class Isa { ref, avx2, avx512, avx512vnni, avx512vpopcntdq, amx };

// Named features; an AVX feature counts only if the operating system saves its registers.
std::vector<std::pair<std::string, bool>> cpu_features();

// The variant that kernels use: the best of the CPU, narrowed by BITWRIGHT_CPU (the name of a level), unless set_isa
// chose. Throws std::invalid_argument if BITWRIGHT_CPU has another value.
Isa current_isa();

// Narrows to a named variant; an empty name returns to the default. Throws std::invalid_argument.
void set_isa(const std::string& name);

const char* isa_name(Isa isa);

// The names of the variants that this machine can run, the least first.
std::vector<std::string> isa_names();
