#include "runtime/gpu_target.h"

namespace tvmops::runtime {

std::optional<GpuTarget> gpu_target(std::string_view name) {
  constexpr std::string_view kPrefix = "sm_";
  if (name.substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const bool exact = !name.empty() && name.back() == 'a';
  if (exact) name.remove_suffix(1);
  if (name.size() < 2 || name.size() > 3 || name.front() == '0') return std::nullopt;
  int number = 0;
  for (const char digit : name) {
    if (digit < '0' || digit > '9') return std::nullopt;
    number = 10 * number + (digit - '0');
  }
  return GpuTarget{number / 10, number % 10, exact};
}

}  // namespace tvmops::runtime
