#include "runtime/cpu_features.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "runtime/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#else
#error "tvmops knows x86_64 and aarch64"
#endif

namespace tvmops::runtime {

#if defined(__x86_64__)
const char* const kHostArch = "x86_64";
#else
const char* const kHostArch = "aarch64";
#endif

namespace {

enum Register { kEax, kEbx, kEcx, kEdx };

// The parts of XCR0 that must be on for a feature to be usable.
constexpr uint64_t kNoState = 0;
constexpr uint64_t kAvxState = 0x6;               // xmm, ymm
constexpr uint64_t kAvx512State = 0xe6;           // and opmask, zmm
constexpr uint64_t kAmxState = 0x60000 | 0xe6;    // and tile configuration, tile data
constexpr uint32_t kOsXsaveBit = 1u << 27;        // leaf 1, ecx: xgetbv may be executed
constexpr uint32_t kExtendedLeaves = 0x80000000;  // its eax: the last extended leaf

struct X86Feature {
  const char* name;
  uint32_t leaf, subleaf;
  Register reg;
  int bit;
  uint64_t state;
};

// Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E (lzcnt).
constexpr X86Feature kX86Features[] = {
    {"fma", 1, 0, kEcx, 12, kAvxState},
    {"movbe", 1, 0, kEcx, 22, kNoState},
    {"f16c", 1, 0, kEcx, 29, kAvxState},
    {"lzcnt", 0x80000001, 0, kEcx, 5, kNoState},
    {"bmi1", 7, 0, kEbx, 3, kNoState},
    {"avx2", 7, 0, kEbx, 5, kAvxState},
    {"bmi2", 7, 0, kEbx, 8, kNoState},
    {"avx512f", 7, 0, kEbx, 16, kAvx512State},
    {"avx512dq", 7, 0, kEbx, 17, kAvx512State},
    {"avx512ifma", 7, 0, kEbx, 21, kAvx512State},
    {"avx512cd", 7, 0, kEbx, 28, kAvx512State},
    {"avx512bw", 7, 0, kEbx, 30, kAvx512State},
    {"avx512vl", 7, 0, kEbx, 31, kAvx512State},
    {"avx512vbmi", 7, 0, kEcx, 1, kAvx512State},
    {"avx512vbmi2", 7, 0, kEcx, 6, kAvx512State},
    {"gfni", 7, 0, kEcx, 8, kAvxState},
    {"vaes", 7, 0, kEcx, 9, kAvxState},
    {"vpclmulqdq", 7, 0, kEcx, 10, kAvxState},
    {"avx512vnni", 7, 0, kEcx, 11, kAvx512State},
    {"avx512bitalg", 7, 0, kEcx, 12, kAvx512State},
    {"avx512vpopcntdq", 7, 0, kEcx, 14, kAvx512State},
    {"amx_bf16", 7, 0, kEdx, 22, kAmxState},
    {"avx512fp16", 7, 0, kEdx, 23, kAvx512State},
    {"amx_tile", 7, 0, kEdx, 24, kAmxState},
    {"amx_int8", 7, 0, kEdx, 25, kAmxState},
    {"avx512bf16", 7, 1, kEax, 5, kAvx512State},
};

uint32_t pick(const CpuidRegisters& r, Register reg) {
  const uint32_t values[] = {r.eax, r.ebx, r.ecx, r.edx};
  return values[reg];
}

struct Target {
  const char* name;
  const char* arch;
  int rank;
  const char* base;  // another target, all of whose features it needs as well; or null
  std::vector<const char*> features;
};

const std::vector<Target>& targets() {
  static const std::vector<Target> table = {
      {"x86-64-v3", "x86_64", 1, nullptr, {"avx2", "fma", "bmi1", "bmi2", "f16c", "lzcnt", "movbe"}},
      {"x86-64-v4", "x86_64", 2, "x86-64-v3", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}},
      // What both Zen 4 and Sapphire Rapids add. Code for it is made as x86-64-v4 plus these, not with a compiler's
      // -mcpu=znver4, which also has sse4a.
      {"znver4",
       "x86_64",
       3,
       "x86-64-v4",
       {"avx512vnni", "avx512bf16", "avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512bitalg", "avx512vpopcntdq",
        "gfni", "vaes", "vpclmulqdq"}},
      {"sapphirerapids", "x86_64", 4, "znver4", {"avx512fp16", "amx_tile", "amx_int8", "amx_bf16"}},
      {"neoverse-n1", "aarch64", 1, nullptr, {"asimd", "dotprod"}},
  };
  return table;
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

const Target& find_target(std::string_view name) {
  for (const auto& target : targets()) {
    if (name == target.name) return target;
  }
  throw Error("unknown target '" + std::string(name) + "' (known: " + join(known_targets()) + ")");
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return trimmed(line);
}

#if defined(__x86_64__)

CpuidRegisters host_cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidRegisters r;
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
  return r;
}

uint64_t host_xcr0() {
  uint32_t low, high;
  // Not _xgetbv: that intrinsic needs -mxsave for the whole file.
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

CpuFeatures detect() { return decode_x86(host_cpuid, host_xcr0); }

#else

// The kernel's names and numbers (arch/arm64/include/uapi/asm/hwcap.h); written out because older headers lack some.
CpuFeatures detect() {
  constexpr unsigned long kAsimd = 1ul << 1, kDotprod = 1ul << 20, kSve = 1ul << 22;  // AT_HWCAP
  constexpr unsigned long kI8mm = 1ul << 13, kBf16 = 1ul << 14;                       // AT_HWCAP2
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  CpuFeatures features;
  if (hwcap & kAsimd) features.names.insert("asimd");
  if (hwcap & kDotprod) features.names.insert("dotprod");
  if (hwcap & kSve) features.names.insert("sve");
  if (hwcap2 & kI8mm) features.names.insert("i8mm");
  if (hwcap2 & kBf16) features.names.insert("bf16");
  return features;
}

#endif

std::string read_model_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos || trimmed(line.substr(0, colon)) != "model name") continue;
    const std::string name = trimmed(line.substr(colon + 1));
    if (!name.empty()) return name;
  }
  const std::string board = first_line("/sys/firmware/devicetree/base/model");  // what aarch64 may have instead
  return board.empty() ? "unknown" : std::string(board.c_str());                // the file ends with a NUL
}

// "32K", "1024K", "16M" -> bytes.
int64_t parse_size(const std::string& text) {
  char* end = nullptr;
  const int64_t value = std::strtoll(text.c_str(), &end, 10);
  const char unit = *end;
  return value * (unit == 'K' ? int64_t{1} << 10 : unit == 'M' ? int64_t{1} << 20 : unit == 'G' ? int64_t{1} << 30 : 1);
}

CacheSizes read_cache_sizes() {
  CacheSizes sizes;
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const std::string level = first_line(folder + "level"), type = first_line(folder + "type");
    if (level.empty() || type == "Instruction") continue;
    int64_t& size = level == "1" ? sizes.l1d : level == "2" ? sizes.l2 : sizes.l3;
    size = std::max(size, parse_size(first_line(folder + "size")));
  }
  // A container may hide sysfs; the C library asks cpuid.
  const auto ask = [](int64_t& size, int name) {
    if (size == 0) size = std::max<int64_t>(0, sysconf(name));
  };
  ask(sizes.l1d, _SC_LEVEL1_DCACHE_SIZE);
  ask(sizes.l2, _SC_LEVEL2_CACHE_SIZE);
  ask(sizes.l3, _SC_LEVEL3_CACHE_SIZE);
  return sizes;
}

}  // namespace

CpuFeatures decode_x86(const CpuidReader& cpuid, const std::function<uint64_t()>& xcr0) {
  const uint32_t last_leaf = cpuid(0, 0).eax;
  const uint32_t last_extended = cpuid(kExtendedLeaves, 0).eax;
  const bool readable = last_leaf >= 1 && (cpuid(1, 0).ecx & kOsXsaveBit) != 0;
  const uint64_t saved = readable ? xcr0() : 0;
  const uint32_t last_of_7 = last_leaf >= 7 ? cpuid(7, 0).eax : 0;
  CpuFeatures features;
  for (const auto& feature : kX86Features) {
    const bool extended = feature.leaf >= kExtendedLeaves;
    // Leaves past the last one return the last one's data, not zeros.
    if (feature.leaf > (extended ? last_extended : last_leaf)) continue;
    if (feature.leaf == 7 && feature.subleaf > last_of_7) continue;
    if ((saved & feature.state) != feature.state) continue;
    if (pick(cpuid(feature.leaf, feature.subleaf), feature.reg) >> feature.bit & 1) features.names.insert(feature.name);
  }
  return features;
}

const CpuFeatures& host_features() {
  static const CpuFeatures features = detect();
  return features;
}

const std::vector<std::string>& known_targets() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const auto& target : targets()) result.push_back(target.name);
    return result;
  }();
  return names;
}

std::string target_arch(std::string_view target) { return find_target(target).arch; }

bool supports(const CpuFeatures& features, std::string_view target) {
  const Target& wanted = find_target(target);
  const bool own = std::all_of(wanted.features.begin(), wanted.features.end(),
                               [&](const char* feature) { return features.has(feature); });
  return own && (wanted.base == nullptr || supports(features, wanted.base));
}

int target_rank(std::string_view target) { return find_target(target).rank; }

std::vector<std::string> usable_targets(const CpuFeatures& features, const std::optional<std::string>& cap) {
  std::vector<std::string> usable;
  for (const auto& target : targets()) {
    if (supports(features, target.name)) usable.push_back(target.name);
  }
  std::stable_sort(usable.begin(), usable.end(),
                   [](const std::string& a, const std::string& b) { return target_rank(a) > target_rank(b); });
  if (!cap) return usable;
  const int highest = target_rank(*cap);
  if (!supports(features, *cap)) {
    throw Error("target '" + *cap + "' is not supported by this CPU (supported: " + join(usable) + ")");
  }
  usable.erase(std::remove_if(usable.begin(), usable.end(),
                              [&](const std::string& target) { return target_rank(target) > highest; }),
               usable.end());
  return usable;
}

std::vector<std::string> usable_targets() {
  const char* value = std::getenv("TVMOPS_TARGET");
  if (value == nullptr || *value == '\0') return usable_targets(host_features(), std::nullopt);
  try {
    return usable_targets(host_features(), std::string(value));
  } catch (const Error& error) {
    throw Error(std::string("TVMOPS_TARGET: ") + error.what());
  }
}

const std::string& cpu_model_name() {
  static const std::string name = read_model_name();
  return name;
}

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = read_cache_sizes();
  return sizes;
}

}  // namespace tvmops::runtime
