// The loaded kernels of one driver, bound, by operator, dtype and static length: what a call looks its kernel up in.
#ifndef TVMOPS_OPS_KERNEL_TABLE_H_
#define TVMOPS_OPS_KERNEL_TABLE_H_

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ops/choice.h"
#include "runtime/registry.h"

namespace tvmops::ops {

// The dtypes that kernels read and write, as workload keys spell them.
enum Storage : int { kFloat32, kBfloat16, kFloat16, kStorages };
inline constexpr const char* kStorageNames[kStorages] = {"float32", "bfloat16", "float16"};

// An operator's name and its index in the tables. Made while the library is loaded, one an operator.
class OpKey {
 public:
  explicit OpKey(const char* name) : name_(name), index_(static_cast<int>(all().size())) { all().push_back(name); }
  const char* name() const { return name_; }
  int index() const { return index_; }

  static std::vector<const char*>& all() {
    static std::vector<const char*> names;
    return names;
  }

 private:
  const char* name_;
  int index_;
};

template <class Kernel>
struct BoundKernel {
  explicit BoundKernel(const tvmops_kernel& source) : kernel(source), plan(plan_of(&source)) {}
  Kernel kernel;
  std::vector<uint8_t> plan;  // empty: by the rule of thumb
};

// A Kernel is bound from a tvmops_kernel by its constructor and has `source` and `n`, its static length or -1.
template <class Kernel>
class KernelTable {
 public:
  using Bound = BoundKernel<Kernel>;

  explicit KernelTable(const char* driver) : driver_(driver) {}

  // The most specific kernel for rows of n, or null.
  const Bound* find(const OpKey& op, Storage storage, int64_t n) const {
    const Slot& slot = newest().slots[op.index() * kStorages + storage];
    for (const Bound* bound : slot.by_length)
      if (bound->kernel.n == n) return bound;
    return slot.general;
  }

  // The whole kernel for just so many rows of n, or null. (Those of flat operators have no number of rows.)
  const Bound* find_whole(const OpKey& op, Storage storage, int64_t m, int64_t n) const {
    for (const Bound* bound : newest().slots[op.index() * kStorages + storage].exact)
      if (bound->kernel.n == n && (bound->kernel.m == m || bound->kernel.m < 0)) return bound;
    return nullptr;
  }

  bool serves(const tvmops_kernel* kernel) const {
    for (const auto& bound : newest().bound)
      if (bound->kernel.source == kernel) return true;
    return false;
  }

 private:
  // Whether whole kernels may stand in for some of a driver's problems.
  static constexpr bool kTakesWhole = requires(Kernel& kernel) { kernel.general; };

  struct Slot {
    const Bound* general = nullptr;
    std::vector<const Bound*> by_length;  // few
    std::vector<Bound*> exact;            // whole kernels, of static sizes alone
  };

  // Never changes; a new one replaces it when a pack or a plan is added.
  struct State {
    uint64_t generation = 0;
    std::shared_ptr<const runtime::Snapshot> snapshot;  // keeps the packs mapped
    std::vector<std::unique_ptr<Bound>> bound;
    std::vector<Slot> slots;
  };

  const State& newest() const {
    const State* state = state_.load(std::memory_order_acquire);
    return state && state->generation == choice_generation() ? *state : rebuild();
  }

  // States that were replaced stay: a call may still be using one, and there are as many as packs and plans were set.
  const State& rebuild() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto state = std::make_unique<State>();
    state->generation = choice_generation();
    state->snapshot = runtime::Registry::global().snapshot();
    state->slots.resize(OpKey::all().size() * kStorages);
    for (size_t op = 0; op < OpKey::all().size(); op++) {
      const std::string name = OpKey::all()[op];
      for (const runtime::Kernel* kernel : state->snapshot->callable(name)) {
        const std::string_view driver = kernel->table->driver;
        const bool whole = kTakesWhole && driver == "whole" && runtime::find_param(*kernel->table, "operands");
        if (driver != driver_ && !whole) continue;
        for (int storage = 0; storage < kStorages; storage++) {
          const std::string prefix = name + "(" + kStorageNames[storage] + ";";
          if (std::strncmp(kernel->table->workload, prefix.c_str(), prefix.size()) == 0)
            add(*state, state->slots[op * kStorages + storage], *kernel->table);
        }
      }
    }
    if constexpr (kTakesWhole) {
      for (const Slot& slot : state->slots)
        for (Bound* bound : slot.exact) bound->kernel.general = slot.general ? &slot.general->kernel : nullptr;
    }
    state_.store(state.get(), std::memory_order_release);
    return *state.release();
  }

  // Kernels come in order of preference: what is there already stays.
  static void add(State& state, Slot& slot, const tvmops_kernel& source) {
    auto bound = std::make_unique<Bound>(source);
    const int64_t n = bound->kernel.n;
    if constexpr (kTakesWhole) {
      if (bound->kernel.whole) {
        slot.exact.push_back(bound.get());
        state.bound.push_back(std::move(bound));
        return;
      }
    }
    if (n < 0) {
      if (slot.general) return;
      slot.general = bound.get();
    } else {
      for (const Bound* other : slot.by_length)
        if (other->kernel.n == n) return;
      slot.by_length.push_back(bound.get());
    }
    state.bound.push_back(std::move(bound));
  }

  const std::string_view driver_;
  mutable std::mutex mutex_;
  mutable std::atomic<const State*> state_{nullptr};
};

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_KERNEL_TABLE_H_
