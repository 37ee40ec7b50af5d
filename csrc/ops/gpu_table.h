// The loaded kernels of one GPU driver, bound, by slot (operator, dtype, layout) and device: what a call looks its
// candidates up in.
#ifndef TVMOPS_OPS_GPU_TABLE_H_
#define TVMOPS_OPS_GPU_TABLE_H_

#include <algorithm>
#include <array>
#include <atomic>
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

  // What a device runs, by slot, most specific first, and if there is nothing, why not.
  struct Device {
    std::vector<std::vector<const Candidate*>> slots;
    std::string trouble;

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
    return found ? found : look_at(state, device);
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

  const Device* look_at(const State& state, int index) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const Device* found = state.devices[index].load(std::memory_order_acquire)) return found;
    auto device = std::make_unique<Device>();
    device->slots.resize(state.slots);
    for (const auto& candidate : state.bound) {
      int error;
      const tvmops_device* about = cuda::find_device(*candidate->kernel.pack, index, &error);
      if (!about)
        device->trouble =
            "device " + std::to_string(index) + " can't be used: " + cuda::error_text(*candidate->kernel.pack, error);
      else if (cuda::runs(*candidate->kernel.source, *about))
        device->slots[candidate->slot].push_back(candidate.get());
    }
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
  if (candidates.empty()) return {nullptr, here->trouble.empty() ? reason::kNoGpuKernel : here->trouble.c_str()};
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
