// CPU detection. The only file that asks the processor.
#include "cpu.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

struct Features {
  bool avx2 = false, fma = false, f16c = false, popcnt = false;
  bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false;
  bool avx512vnni = false, avx512vpopcntdq = false;
  bool amx = false;
  bool amd = false;  // who made it: decides how many instructions of a kind start per cycle
};

#if defined(__x86_64__)
// The register sets that the operating system saves on a context switch; without this, AVX code would corrupt data.
uint64_t saved_registers() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// The tile registers are large: Linux saves them only for processes that ask.
bool tiles_permitted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Features detect() {
  constexpr uint64_t kYmm = 0x06;  // xmm, ymm
  constexpr uint64_t kZmm = 0xe6;  // xmm, ymm, mask registers, zmm 0-15 upper halves, zmm 16-31
  constexpr uint64_t kTiles = 0x60000;
  constexpr uint32_t kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  Features f;
  uint32_t a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return f;
  f.amd = b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  f.popcnt = c & bit_POPCNT;
  const bool osxsave = c & bit_OSXSAVE;
  const uint64_t saved = osxsave ? saved_registers() : 0;
  const bool ymm = (saved & kYmm) == kYmm && (c & bit_AVX);
  f.fma = ymm && (c & bit_FMA);
  f.f16c = ymm && (c & bit_F16C);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.avx2 = ymm && (b & bit_AVX2);
  const bool zmm = ymm && (saved & kZmm) == kZmm;
  f.avx512f = zmm && (b & bit_AVX512F);
  f.avx512bw = zmm && (b & bit_AVX512BW);
  f.avx512vl = zmm && (b & bit_AVX512VL);
  f.avx512dq = zmm && (b & bit_AVX512DQ);
  f.avx512vnni = zmm && (c & bit_AVX512VNNI);
  f.avx512vpopcntdq = zmm && (c & bit_AVX512VPOPCNTDQ);
  f.amx = (saved & kTiles) == kTiles && (d & kAmxTile) && (d & kAmxInt8) && (d & kAmxBf16) && tiles_permitted();
  return f;
}
#else
Features detect() { return {}; }
#endif

const Features& features() {
  static const Features found = detect();
  return found;
}

constexpr Isa kLevels[] = {Isa::ref, Isa::avx2, Isa::avx512, Isa::avx512vnni, Isa::avx512vpopcntdq, Isa::amx};

Isa best_isa() {
  const Features& f = features();
  if (!f.avx2 || !f.fma || !f.f16c) return Isa::ref;
  if (!f.avx512f || !f.avx512bw || !f.avx512vl || !f.avx512dq) return Isa::avx2;
  if (!f.avx512vnni) return Isa::avx512;
  if (!f.avx512vpopcntdq) return Isa::avx512vnni;
  return f.amx ? Isa::amx : Isa::avx512vpopcntdq;
}

Isa parse(const std::string& name, const std::string& where) {
  std::string known;
  for (Isa isa : kLevels) {
    if (name == isa_name(isa)) return isa;
    known += (known.empty() ? "'" : ", '") + std::string(isa_name(isa)) + "'";
  }
  throw std::invalid_argument(where + " is '" + name + "', expected one of " + known);
}

Isa default_isa() {
  const Isa best = best_isa();
  const char* wish = std::getenv("BITWRIGHT_CPU");
  if (!wish || !*wish) return best;
  const Isa named = parse(wish, "environment variable BITWRIGHT_CPU");
  return named < best ? named : best;
}

constexpr int kUndecided = -1;
std::atomic<int> chosen{kUndecided};

}  // namespace

std::vector<std::pair<std::string, bool>> cpu_features() {
  const Features& f = features();
  return {{"popcnt", f.popcnt},         {"avx2", f.avx2},
          {"fma", f.fma},               {"f16c", f.f16c},
          {"avx512f", f.avx512f},       {"avx512bw", f.avx512bw},
          {"avx512vl", f.avx512vl},     {"avx512dq", f.avx512dq},
          {"avx512vnni", f.avx512vnni}, {"avx512vpopcntdq", f.avx512vpopcntdq},
          {"amx", f.amx},           {"amd", f.amd}};
}

Isa current_isa() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa == kUndecided) {
    isa = static_cast<int>(default_isa());
    chosen.store(isa, std::memory_order_relaxed);
  }
  return static_cast<Isa>(isa);
}

void set_isa(const std::string& name) {
  if (name.empty()) {
    chosen.store(kUndecided, std::memory_order_relaxed);
    return;
  }
  const Isa isa = parse(name, "set_isa: name");
  if (isa > best_isa())
    throw std::invalid_argument("set_isa: this machine has no " + name + ", the most it runs is " +
                                isa_name(best_isa()));
  chosen.store(static_cast<int>(isa), std::memory_order_relaxed);
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::amx: return "amx";
    case Isa::avx512vpopcntdq: return "avx512vpopcntdq";
    case Isa::avx512vnni: return "avx512vnni";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "ref";
  }
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (Isa isa : kLevels)
    if (isa <= best_isa()) names.push_back(isa_name(isa));
  return names;
}
