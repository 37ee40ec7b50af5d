#include "ops/packed_weights.h"

#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "ops/common.h"

namespace tvmops::ops {

namespace {

struct Key {
  const void* data;
  int64_t n, k, row, column;
  bool operator==(const Key& o) const {
    return data == o.data && n == o.n && k == o.k && row == o.row && column == o.column;
  }
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    size_t h = reinterpret_cast<size_t>(key.data);
    for (const int64_t v : {key.n, key.k, key.row, key.column}) h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 29);
  }
};

struct Entry {
  // A weak reference keeps the address of the StorageImpl from being reused, though not its memory.
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;
  uint32_t version = 0;
  const drivers::GemmKernel* kernel = nullptr;
  std::shared_ptr<const PackedWeight> packed;
};

thread_local bool learning = false;

struct Cache {
  std::shared_mutex mutex;
  std::unordered_map<Key, Entry, KeyHash> entries;
};

Cache& cache() {
  static auto* const instance = new Cache;  // never destroyed: models may outlive static destruction
  return *instance;
}

void sweep(std::unordered_map<Key, Entry, KeyHash>& entries) {
  for (auto it = entries.begin(); it != entries.end();)
    it = it->second.storage.expired() ? entries.erase(it) : std::next(it);
}

bool current(const Entry& entry, const c10::StorageImpl* storage, uint32_t version, const drivers::GemmKernel& kernel) {
  return entry.storage._unsafe_get_target() == storage && entry.version == version && entry.kernel == &kernel;
}

}  // namespace

LearningGuard::LearningGuard(bool learns) : before_(learning) { learning = learns; }
LearningGuard::~LearningGuard() { learning = before_; }

std::shared_ptr<const PackedWeight> packed_weight(const at::Tensor& weight, const drivers::GemmKernel& kernel) {
  if (weight.is_inference()) return nullptr;  // keeps no version: its changes would go unnoticed
  const uint32_t version = weight._version();
  const c10::StorageImpl* storage = weight.storage().unsafeGetStorageImpl();
  const Key key = {weight.const_data_ptr(), weight.size(0), weight.size(1), weight.stride(0), weight.stride(1)};
  Cache& c = cache();
  {
    const std::shared_lock<std::shared_mutex> lock(c.mutex);
    const auto found = c.entries.find(key);
    if (found != c.entries.end() && current(found->second, storage, version, kernel) && found->second.packed)
      return found->second.packed;
  }
  const bool learns = learning;
  {
    const std::unique_lock<std::shared_mutex> lock(c.mutex);
    auto [found, fresh] =
        c.entries.try_emplace(key, Entry{weight.storage().getWeakStorageImpl(), version, &kernel, nullptr});
    Entry& entry = found->second;
    const bool same = !fresh && current(entry, storage, version, kernel);
    if (same && entry.packed) return entry.packed;
    if (!same) entry = Entry{weight.storage().getWeakStorageImpl(), version, &kernel, nullptr};
    if (learns && !same) return nullptr;
    sweep(c.entries);
  }
  // Packed outside the lock; of two threads that pack the same weight, one result is kept.
  const int64_t n = weight.size(0), k = weight.size(1);
  auto packed = std::make_shared<PackedWeight>();
  packed->data = runtime::AlignedBuffer(runtime::checked_bytes(kernel.packed_size(n, k), sizeof(float)));
  const drivers::MatrixView b = {weight.const_data_ptr<float>(), weight.stride(1), weight.stride(0)};
  drivers::pack_b(kernel, b, k, n, packed->data.as<float>(), kAtenParallel);
  const std::unique_lock<std::shared_mutex> lock(c.mutex);
  const auto found = c.entries.find(key);
  if (found != c.entries.end() && current(found->second, storage, version, kernel)) found->second.packed = packed;
  return packed;
}

int64_t release_packed_weights(bool all) {
  Cache& c = cache();
  const std::unique_lock<std::shared_mutex> lock(c.mutex);
  if (all)
    c.entries.clear();
  else
    sweep(c.entries);
  int64_t bytes = 0;
  for (const auto& [key, entry] : c.entries)
    if (entry.packed) bytes += static_cast<int64_t>(entry.packed->data.size());
  return bytes;
}

}  // namespace tvmops::ops
