#include "runtime/registry.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/gpu_target.h"

namespace tvmops::runtime {

namespace {

std::string hex(uint64_t value) {
  static const char* const digits = "0123456789abcdef";
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += digits[value >> shift & 15];
  return "0x" + text;
}

bool blank(const char* text) { return text == nullptr || *text == '\0'; }

// Refuses a kernel; `where` is "pack ORIGIN: ".
class KernelCheck {
 public:
  KernelCheck(const std::string& where, const tvmops_kernel& kernel, uint32_t index)
      : kernel_(kernel),
        where_(where + "kernel " + (blank(kernel.name) ? std::to_string(index) : "'" + std::string(kernel.name) + "'") +
               " ") {}

  void run(std::string_view arch, const GpuEntries& gpu) const {
    text(kernel_.name, "name");
    text(kernel_.op, "op");
    text(kernel_.workload, "workload");
    text(kernel_.target, "target");
    text(kernel_.driver, "driver");
    if (gpu_target(kernel_.target))
      on_gpu(gpu);
    else
      target(arch);
    values(kernel_.dims, kernel_.n_dims, "dim");
    values(kernel_.params, kernel_.n_params, "param");
    array(kernel_.leaves, kernel_.n_leaves, "leaves");
    for (uint32_t i = 0; i < kernel_.n_leaves; ++i) {
      if (blank(kernel_.leaves[i].name)) fail("has no name for leaf " + std::to_string(i));
      if (kernel_.leaves[i].function == nullptr) {
        fail("has no function for leaf '" + std::string(kernel_.leaves[i].name) + "'");
      }
    }
    array(kernel_.plan, kernel_.n_plan, "plan");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(where_ + what); }

  void text(const char* value, const char* field) const {
    if (blank(value)) fail(std::string("has no ") + field);
  }

  void array(const void* data, uint32_t count, const char* field) const {
    if (data == nullptr && count > 0) fail("counts " + std::to_string(count) + " " + field + " but points to none");
  }

  void values(const tvmops_value* data, uint32_t count, const char* field) const {
    array(data, count, (std::string(field) + "s").c_str());
    for (uint32_t i = 0; i < count; ++i) {
      if (blank(data[i].name)) fail(std::string("has no name for ") + field + " " + std::to_string(i));
    }
  }

  void on_gpu(const GpuEntries& gpu) const {
    const char* missing = !gpu.device ? TVMOPS_PACK_DEVICE_NAME : !gpu.error ? TVMOPS_PACK_ERROR_NAME : nullptr;
    if (missing)
      fail("is for target '" + std::string(kernel_.target) + "', and the pack has no entry point " + missing);
  }

  void target(std::string_view arch) const {
    std::string of;
    try {
      of = target_arch(kernel_.target);
    } catch (const Error& error) {
      fail(std::string("has an ") + error.what());
    }
    if (of != arch)
      fail("is for target '" + std::string(kernel_.target) + "', which is " + of + ", not " + std::string(arch));
  }

  const tvmops_kernel& kernel_;
  const std::string where_;
};

void check_pack(const tvmops_pack* pack, const std::string& origin, const GpuEntries& gpu) {
  const std::string where = "pack " + origin + ": ";
  if (pack == nullptr) throw Error(where + "its entry point returned no table");
  if (pack->magic != TVMOPS_PACK_MAGIC) {
    throw Error(where + "magic " + hex(pack->magic) + ", a kernel pack has " + hex(TVMOPS_PACK_MAGIC));
  }
  // Nothing behind the version may be looked at before the version is right.
  if (pack->abi_version != TVMOPS_ABI_VERSION) {
    throw Error(where + "ABI version " + std::to_string(pack->abi_version) + ", this tvmops needs " +
                std::to_string(TVMOPS_ABI_VERSION));
  }
  if (blank(pack->arch)) throw Error(where + "it names no architecture");
  if (std::string_view(pack->arch) != kHostArch) {
    throw Error(where + "built for architecture '" + pack->arch + "', this machine is " + kHostArch);
  }
  if (pack->manifest == nullptr) throw Error(where + "it has no manifest");
  if (pack->kernels == nullptr && pack->n_kernels > 0) {
    throw Error(where + "it counts " + std::to_string(pack->n_kernels) + " kernels but points to none");
  }
  std::unordered_set<std::string_view> names;
  for (uint32_t i = 0; i < pack->n_kernels; ++i) {
    KernelCheck(where, pack->kernels[i], i).run(pack->arch, gpu);
    if (!names.insert(pack->kernels[i].name).second) {
      throw Error(where + "two kernels are named '" + pack->kernels[i].name + "'");
    }
  }
}

template <class Item>
const Item* find_named(const Item* items, uint32_t count, std::string_view name) {
  for (uint32_t i = 0; i < count; ++i) {
    if (name == items[i].name) return &items[i];
  }
  return nullptr;
}

}  // namespace

const std::vector<const Kernel*>& Snapshot::callable(std::string_view op) const {
  static const std::vector<const Kernel*> none;
  const auto found = by_op_.find(op);
  return found == by_op_.end() ? none : found->second;
}

const Kernel* Snapshot::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

Registry::Registry(std::vector<std::string> usable)
    : usable_(std::move(usable)), snapshot_(std::make_shared<const Snapshot>()) {}

Registry& Registry::global() {
  static Registry* const registry = new Registry(tvmops::runtime::usable_targets());
  return *registry;
}

bool Registry::add(const tvmops_pack* pack, std::string origin, std::shared_ptr<void> handle, GpuEntries gpu) {
  check_pack(pack, origin, gpu);
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& known : snapshot_->packs_) {
    if (known->table == pack) return false;
  }
  auto next = std::make_shared<Snapshot>();
  next->generation_ = snapshot_->generation_ + 1;
  next->packs_ = snapshot_->packs_;
  next->packs_.push_back(std::make_shared<const Pack>(Pack{pack, std::move(origin), std::move(handle), gpu}));

  // Latest pack first: whoever comes later with the same workload and target was loaded earlier, and is shadowed. Two
  // kernels of one pack do not shadow each other.
  std::unordered_map<std::string, const Pack*> owner;
  for (auto it = next->packs_.rbegin(); it != next->packs_.rend(); ++it) {
    for (uint32_t i = 0; i < (*it)->table->n_kernels; ++i) {
      const tvmops_kernel& kernel = (*it)->table->kernels[i];
      const auto place = owner.emplace(std::string(kernel.workload) + '\n' + kernel.target, it->get()).first;
      const bool usable = std::find(usable_.begin(), usable_.end(), kernel.target) != usable_.end();
      const auto gpu_kind = gpu_target(kernel.target);
      const int rank = gpu_kind ? gpu_kind->rank() : target_rank(kernel.target);
      next->kernels_.push_back({&kernel, *it, rank, gpu_kind.has_value(), usable, place->second != it->get()});
    }
  }
  std::stable_sort(next->kernels_.begin(), next->kernels_.end(),
                   [](const Kernel& a, const Kernel& b) { return a.gpu != b.gpu ? b.gpu : a.rank > b.rank; });
  for (const Kernel& kernel : next->kernels_) {
    const bool callable = (kernel.usable || kernel.gpu) && !kernel.shadowed;
    if (callable) next->by_op_[kernel.table->op].push_back(&kernel);
    const Kernel*& named = next->by_name_[kernel.table->name];
    if (named == nullptr || (callable && (!(named->usable || named->gpu) || named->shadowed))) named = &kernel;
  }
  const uint64_t generation = next->generation_;
  snapshot_ = std::move(next);
  generation_.store(generation, std::memory_order_release);
  return true;
}

std::shared_ptr<const Snapshot> Registry::snapshot() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return snapshot_;
}

const int64_t* find_dim(const tvmops_kernel& kernel, std::string_view name) {
  const auto* found = find_named(kernel.dims, kernel.n_dims, name);
  return found ? &found->value : nullptr;
}

const int64_t* find_param(const tvmops_kernel& kernel, std::string_view name) {
  const auto* found = find_named(kernel.params, kernel.n_params, name);
  return found ? &found->value : nullptr;
}

tvmops_function find_leaf(const tvmops_kernel& kernel, std::string_view name) {
  const auto* found = find_named(kernel.leaves, kernel.n_leaves, name);
  return found ? found->function : nullptr;
}

}  // namespace tvmops::runtime
