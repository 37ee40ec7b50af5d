// What this CPU can do, as names, and which targets follow from that.
#ifndef TVMOPS_RUNTIME_CPU_FEATURES_H_
#define TVMOPS_RUNTIME_CPU_FEATURES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace tvmops::runtime {

// The architecture this library was compiled for, as a pack spells it: "x86_64" or "aarch64".
extern const char* const kHostArch;

// Feature names are lower case: "avx2", "avx512f", "asimd"... A feature is present only if the CPU has it and the
// operating system saves the registers that it needs. (AMX wants a permission per process on top of that, see
// arch_prctl(2); whoever runs an AMX kernel asks for it.)
struct CpuFeatures {
  std::set<std::string, std::less<>> names;

  bool has(std::string_view name) const { return names.find(name) != names.end(); }
};

struct CpuidRegisters {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};
using CpuidReader = std::function<CpuidRegisters(uint32_t leaf, uint32_t subleaf)>;

// Decodes x86 features from cpuid and XCR0 (which says what the operating system saves). `xcr0` is called only if cpuid
// says that it may be read. Compiled on every architecture, so that tests can play any CPU.
CpuFeatures decode_x86(const CpuidReader& cpuid, const std::function<uint64_t()>& xcr0);

// The features of this machine, detected once.
const CpuFeatures& host_features();

// Every target known, of all architectures, least capable first within one.
const std::vector<std::string>& known_targets();

// "x86_64" or "aarch64". As the next two, throws Error if the target is unknown.
std::string target_arch(std::string_view target);

// Whether a CPU with these features runs code made for the target.
bool supports(const CpuFeatures& features, std::string_view target);

// Order of preference within an architecture: the higher the better. Starts at 1.
int target_rank(std::string_view target);

// The targets that these features support, most capable first; with a cap, only those of a rank up to the cap's. Throws
// Error if the cap is unknown or not supported.
std::vector<std::string> usable_targets(const CpuFeatures& features, const std::optional<std::string>& cap);

// The same for this machine, capped by the environment variable TVMOPS_TARGET (unset and empty mean no cap).
std::vector<std::string> usable_targets();

// In bytes; 0 where unknown.
struct CacheSizes {
  int64_t l1d = 0, l2 = 0, l3 = 0;
};

// For people to read, e.g. "AMD EPYC 9654"; "unknown" if nothing tells.
const std::string& cpu_model_name();

// The caches that the first CPU sees.
const CacheSizes& cache_sizes();

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_CPU_FEATURES_H_
