#include "cuda/kernel.h"

#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "drivers/binding.h"
#include "runtime/error.h"

namespace tvmops::cuda {

namespace {

// Texts that live on; few, as there are few errors.
const char* kept(const std::string& text) {
  static std::mutex mutex;
  static auto* const all = new std::set<std::string>;
  const std::lock_guard<std::mutex> lock(mutex);
  return all->insert(text).first->c_str();
}

}  // namespace

Launcher Launcher::find(const tvmops_kernel& kernel, const std::string& name) {
  const std::string suffix = name.empty() ? "" : "." + name;
  return {reinterpret_cast<tvmops_launch_function>(runtime::find_leaf(kernel, "launch" + suffix)),
          reinterpret_cast<tvmops_workspace_function>(runtime::find_leaf(kernel, "workspace" + suffix))};
}

Launcher Launcher::only(const tvmops_kernel& kernel) {
  const Launcher found = find(kernel, "");
  if (!found) throw runtime::Error(drivers::describe(kernel) + ": leaf 'launch' is missing");
  return found;
}

Refusals& refusals_of(const tvmops_kernel& kernel) {
  static std::mutex mutex;
  static auto* const all = new std::map<const tvmops_kernel*, std::unique_ptr<Refusals>>;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& one = (*all)[&kernel];
  if (!one) {
    one = std::make_unique<Refusals>();
    for (auto& refusal : *one) refusal.store(nullptr, std::memory_order_relaxed);
  }
  return *one;
}

Outcome run(const Kernel& kernel, const Launcher& launcher, const tvmops_launch& launch) {
  const int error = launcher.launch(&launch);
  if (error == kSuccess) return {};
  const std::string text = error_text(*kernel.pack, error);
  if (refuses_sizes(error)) return {kept("the launch was refused: " + text)};
  if (!never_runs(error))
    throw runtime::Error(drivers::describe(kernel.source[0]) + " could not be launched on CUDA device " +
                         std::to_string(launch.device) + ": " + text);
  const char* const why = kept("the kernel does not run on this device: " + text);
  (*kernel.refusals)[launch.device].store(why, std::memory_order_release);
  return {why};
}

}  // namespace tvmops::cuda
