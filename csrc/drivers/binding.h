// What every driver does with a kernel of the registry: leaves, params and dimensions by name, and size buckets.
#ifndef TVMOPS_DRIVERS_BINDING_H_
#define TVMOPS_DRIVERS_BINDING_H_

#include <algorithm>
#include <cstdint>
#include <string>

#include "runtime/error.h"
#include "runtime/registry.h"

namespace tvmops::drivers {

inline std::string describe(const tvmops_kernel& kernel) { return std::string("kernel ") + kernel.name; }

// Null if there is none of that name.
template <class Fn>
Fn* optional_leaf(const tvmops_kernel& kernel, const std::string& name) {
  return reinterpret_cast<Fn*>(runtime::find_leaf(kernel, name));
}

// Throws runtime::Error if there is none of that name.
template <class Fn>
Fn* leaf(const tvmops_kernel& kernel, const std::string& name) {
  Fn* const function = optional_leaf<Fn>(kernel, name);
  if (!function) throw runtime::Error(describe(kernel) + ": leaf '" + name + "' is missing");
  return function;
}

// Throws runtime::Error if it is missing or not in [low, high].
inline int64_t param(const tvmops_kernel& kernel, const std::string& name, int64_t low, int64_t high) {
  const int64_t* value = runtime::find_param(kernel, name);
  if (!value) throw runtime::Error(describe(kernel) + ": param '" + name + "' is missing");
  if (*value < low || *value > high)
    throw runtime::Error(describe(kernel) + ": param '" + name + "' is " + std::to_string(*value) + ", not in [" +
                         std::to_string(low) + ", " + std::to_string(high) + "]");
  return *value;
}

// -1 where it is symbolic or missing.
inline int64_t dim(const tvmops_kernel& kernel, const char* name) {
  const int64_t* value = runtime::find_dim(kernel, name);
  return value ? *value : -1;
}

// Throws runtime::Error if the kernel has a plan of another size.
inline void check_plan(const tvmops_kernel& kernel, int64_t size) {
  if (kernel.plan && kernel.n_plan != size)
    throw runtime::Error(describe(kernel) + ": its plan has " + std::to_string(kernel.n_plan) + " entries, not " +
                         std::to_string(size));
}

// Which bucket a size falls into, given the upper bounds of all but the last.
template <size_t count>
int64_t bucket(const int64_t (&bounds)[count], int64_t value) {
  return std::lower_bound(bounds, bounds + count, value) - bounds;
}

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_BINDING_H_
