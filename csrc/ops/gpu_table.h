// The loaded kernels of one GPU driver, bound, by slot (operator, dtype, layout) and device: what a call looks its
// candidates up in.
#ifndef TVMOPS_OPS_GPU_TABLE_H_
#define TVMOPS_OPS_GPU_TABLE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "ops/choice.h"
#include "ops/kernel_table.h"
#include "runtime/registry.h"

namespace tvmops::ops {

template <class Kernel>
struct GpuCandidate {
  GpuCandidate(const runtime::Kernel& source, size_t slot) : kernel(source), plan(plan_of(source.table)), slot(slot) {}
  const Kernel kernel;
  const std::vector<uint8_t> plan;  // empty: never timed
  const size_t slot;
};

// A Kernel is bound from a runtime::Kernel by its constructor and has kDriver and specificity().
template <class Kernel>
class GpuTable {
 public:
  using Candidate = GpuCandidate<Kernel>;
  // -1 for a kernel that no call comes to.
  using SlotOf = int64_t (*)(const tvmops_kernel& kernel);

  // What a device runs, by slot, most specific first; and if a pack can't say what the device is, why not.
  struct Device {
    std::vector<std::vector<const Candidate*>> slots;
    std::string trouble;
    bool passing = false;  // the trouble may be over at the next call

    // Why a slot has nothing.
    const char* nothing() const {
      const bool any = std::any_of(slots.begin(), slots.end(), [](const auto& slot) { return !slot.empty(); });
      return !trouble.empty() ? trouble.c_str() : any ? reason::kNoneSuch : reason::kNoGpuKernel;
    }

    const std::vector<const Candidate*>& operator[](size_t slot) const {
      static const std::vector<const Candidate*> none;
      return slot < slots.size() ? slots[slot] : none;
    }
  };

  explicit GpuTable(SlotOf slot_of) : slot_of_(slot_of) {}

  // Null if there are no kernels at all.
  const Device* on(int device) const {
    const State& state = newest();
    if (state.bound.empty() || device < 0 || device >= cuda::kMaxDevices) return nullptr;
    const Device* found = state.devices[device].load(std::memory_order_acquire);
    return found && !found->passing ? found : look_at(state, device);
  }

  bool serves(const tvmops_kernel* kernel) const {
    const State& state = newest();
    return std::any_of(state.bound.begin(), state.bound.end(),
                       [&](const auto& c) { return c->kernel.source == kernel; });
  }

 private:
  // Never changes but for devices that are seen for the first time; a new one replaces it when a pack or a plan is
  // added. States that were replaced stay: a call may still be using one.
  struct State {
    uint64_t generation = 0;
    std::shared_ptr<const runtime::Snapshot> snapshot;  // keeps the packs mapped
    std::vector<std::unique_ptr<const Candidate>> bound;
    size_t slots = 0;
    mutable std::array<std::atomic<const Device*>, cuda::kMaxDevices> devices{};
  };

  const State& newest() const {
    const State* state = state_.load(std::memory_order_acquire);
    return state && state->generation == choice_generation() ? *state : rebuild();
  }

  const State& rebuild() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto state = std::make_unique<State>();
    state->generation = choice_generation();
    state->snapshot = runtime::Registry::global().snapshot();
    for (const runtime::Kernel& kernel : state->snapshot->kernels()) {
      if (!kernel.gpu || kernel.shadowed || kernel.table->driver != std::string_view(Kernel::kDriver)) continue;
      const int64_t slot = slot_of_(*kernel.table);
      if (slot < 0) continue;
      state->bound.push_back(std::make_unique<const Candidate>(kernel, static_cast<size_t>(slot)));
      state->slots = std::max(state->slots, static_cast<size_t>(slot) + 1);
    }
    std::stable_sort(state->bound.begin(), state->bound.end(),
                     [](const auto& a, const auto& b) { return a->kernel.specificity() > b->kernel.specificity(); });
    state_.store(state.get(), std::memory_order_release);
    return *state.release();
  }

  // A device whose trouble has passed replaces what was known of it, which stays: a call may still be using it.
  const Device* look_at(const State& state, int index) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Device* const found = state.devices[index].load(std::memory_order_acquire);
    if (found && !found->passing) return found;
    auto device = std::make_unique<Device>();
    device->slots.resize(state.slots);
    std::map<const runtime::Pack*, const tvmops_device*> asked;  // null: in vain
    for (const auto& candidate : state.bound) {
      const runtime::Pack* const pack = candidate->kernel.pack;
      auto answer = asked.find(pack);
      if (answer == asked.end()) {
        int error;
        answer = asked.emplace(pack, cuda::find_device(*pack, index, &error)).first;
        if (error != cuda::kSuccess) {
          device->trouble = "device " + std::to_string(index) + " can't be used: " + cuda::error_text(*pack, error);
          device->passing |= cuda::may_pass(error);
        }
      }
      if (answer->second && cuda::runs(*candidate->kernel.source, *answer->second))
        device->slots[candidate->slot].push_back(candidate.get());
    }
    if (found && found->trouble == device->trouble && found->slots == device->slots) return found;
    state.devices[index].store(device.get(), std::memory_order_release);
    return device.release();
  }

  const SlotOf slot_of_;
  mutable std::mutex mutex_;
  mutable std::atomic<const State*> state_{nullptr};
};

// A slot for each operator and storage dtype; of a kernel by its workload, -1 if no operator has its name.
inline size_t slot_of(const OpKey& op, Storage storage) { return op.index() * kStorages + storage; }
int64_t slot_by_operator(const tvmops_kernel& kernel);

// What a call came to on a GPU: a kernel, or null; and why.
template <class Kernel>
struct GpuChoice {
  const Kernel* kernel = nullptr;
  const char* reason = "";
  explicit operator bool() const { return kernel != nullptr; }
};

// The first candidate that does not refuse and wins by its plan; in mode force the first that does not refuse will do.
// `refusal(kernel)` says why not, or null; `bucket(kernel)` is where in a plan to look.
template <class Kernel, class Refusal, class Bucket>
GpuChoice<Kernel> choose_on_gpu(const GpuTable<Kernel>& table, size_t slot, int device, Refusal refusal,
                                Bucket bucket) {
  const Mode mode = current_mode();
  if (mode == Mode::kOff) return {nullptr, reason::kOff};
  const auto* here = table.on(device);
  if (!here) return {nullptr, reason::kNoGpuKernel};
  const auto& candidates = (*here)[slot];
  if (candidates.empty()) return {nullptr, here->nothing()};
  const char* refused = reason::kNoGpuKernel;
  const Kernel* applies = nullptr;
  bool slower = false, untimed = false;
  for (const auto* candidate : candidates) {
    const char* no = candidate->kernel.refusal(device);
    if (!no) no = refusal(candidate->kernel);
    if (no) {
      refused = no;
      continue;
    }
    const bool timed = !candidate->plan.empty();
    if (timed && candidate->plan[bucket(candidate->kernel)])
      return {&candidate->kernel, mode == Mode::kForce ? reason::kForced : reason::kWins};
    if (!applies) applies = &candidate->kernel;
    (timed ? slower : untimed) = true;
  }
  if (applies && mode == Mode::kForce) return {applies, reason::kForced};
  return {nullptr, slower ? reason::kSlower : untimed ? reason::kNeverTimed : refused};
}

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_GPU_TABLE_H_
