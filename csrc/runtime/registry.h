// The kernels that were loaded. Writers are rare and take a lock; readers keep an immutable snapshot and look at a
// counter to see whether it is still the newest.
#ifndef TVMOPS_RUNTIME_REGISTRY_H_
#define TVMOPS_RUNTIME_REGISTRY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/abi.h"

namespace tvmops::runtime {

// What a pack with kernels on a GPU says of devices and of errors; null in other packs.
struct GpuEntries {
  decltype(&TVMOPS_PACK_DEVICE) device = nullptr;
  decltype(&TVMOPS_PACK_ERROR) error = nullptr;
};

// A loaded pack. `handle` keeps the shared library mapped; null if the pack is linked in.
struct Pack {
  const tvmops_pack* table;
  std::string origin;  // its path, or e.g. "built-in"
  std::shared_ptr<void> handle;
  GpuEntries gpu;
};

struct Kernel {
  const tvmops_kernel* table;
  std::shared_ptr<const Pack> pack;
  int rank;       // target_rank(table->target), or that of the GPU target
  bool gpu;       // which devices run it is decided where there is one: csrc/cuda/device.h
  bool usable;    // this CPU runs the target, and TVMOPS_TARGET allows it
  bool shadowed;  // a later pack has a kernel of the same workload and target
};

// What was loaded at one moment. Never changes; keeps the libraries that it points into alive.
class Snapshot {
 public:
  uint64_t generation() const { return generation_; }
  const std::vector<std::shared_ptr<const Pack>>& packs() const { return packs_; }

  // All kernels, in order of preference: most capable target first, then the latest pack, then the pack's own order.
  const std::vector<Kernel>& kernels() const { return kernels_; }

  // The kernels of an operator that may be called (usable or of a GPU, not shadowed), in order of preference. Empty if
  // none.
  const std::vector<const Kernel*>& callable(std::string_view op) const;

  // By name; of several (from several packs) the first in order of preference that may be called, else the first. Null
  // if there is none.
  const Kernel* find(std::string_view name) const;

 private:
  friend class Registry;
  uint64_t generation_ = 0;
  std::vector<std::shared_ptr<const Pack>> packs_;  // in the order of loading
  std::vector<Kernel> kernels_;
  std::unordered_map<std::string_view, std::vector<const Kernel*>> by_op_;
  std::unordered_map<std::string_view, const Kernel*> by_name_;
};

class Registry {
 public:
  // `usable`: the targets whose kernels may be called, see usable_targets().
  explicit Registry(std::vector<std::string> usable);
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // The registry of this process, for usable_targets(). Never destroyed, so that no library is unmapped at exit. Throws
  // Error if TVMOPS_TARGET is wrong.
  static Registry& global();

  // Checks a pack and adds it. Returns false if this very table was added before. Throws Error, in one sentence that
  // names the pack and the value, and leaves the registry as it was, if the pack can't be accepted.
  bool add(const tvmops_pack* pack, std::string origin, std::shared_ptr<void> handle = nullptr, GpuEntries gpu = {});

  // The newest snapshot; never null.
  std::shared_ptr<const Snapshot> snapshot() const;

  // Grows with every pack added: a reader whose snapshot has this generation has the newest. Takes no lock.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

  const std::vector<std::string>& usable_targets() const { return usable_; }

 private:
  const std::vector<std::string> usable_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Snapshot> snapshot_;  // guarded by mutex_
  std::atomic<uint64_t> generation_{0};
};

// A kernel's parts by name; null if it has none of that name.
const int64_t* find_dim(const tvmops_kernel& kernel, std::string_view name);
const int64_t* find_param(const tvmops_kernel& kernel, std::string_view name);
tvmops_function find_leaf(const tvmops_kernel& kernel, std::string_view name);

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_REGISTRY_H_
