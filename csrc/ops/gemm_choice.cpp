#include "ops/gemm_choice.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "runtime/registry.h"

namespace tvmops::ops {

using drivers::GemmKernel;
using drivers::Route;

namespace {

struct Bound {
  std::unique_ptr<GemmKernel> gemm;
  std::vector<uint8_t> plan;  // empty: by the rule of thumb
};

struct SizeHash {
  size_t operator()(const std::pair<int64_t, int64_t>& s) const { return s.first * 0x9e3779b97f4a7c15ull ^ s.second; }
};

// The kernels of the GEMM family, bound. Immutable; a new one replaces it when a pack or a plan is added.
struct Table {
  uint64_t generation = 0;
  std::shared_ptr<const runtime::Snapshot> snapshot;  // keeps the packs mapped
  std::vector<std::unique_ptr<Bound>> bound;
  const Bound* general = nullptr;
  std::unordered_map<std::pair<int64_t, int64_t>, const Bound*, SizeHash> linear;  // by (N, K)
  std::unordered_map<int64_t, const Bound*> square;                                // by M = N = K
};

std::mutex table_mutex;
std::atomic<const Table*> newest{nullptr};

const Bound* bind(Table& table, const runtime::Kernel& kernel) {
  auto b = std::make_unique<Bound>();
  b->gemm = std::make_unique<GemmKernel>(*kernel.table);
  b->plan = plan_of(kernel.table);
  table.bound.push_back(std::move(b));
  return table.bound.back().get();
}

// Tables that were replaced stay: a call may still be using one, and there are as many as packs and plans were loaded.
const Table& rebuild() {
  const std::lock_guard<std::mutex> lock(table_mutex);
  auto table = std::make_unique<Table>();
  table->generation = choice_generation();
  table->snapshot = runtime::Registry::global().snapshot();
  const auto dim = [](const runtime::Kernel& kernel, const char* name) {
    const int64_t* value = runtime::find_dim(*kernel.table, name);
    return value ? *value : -1;
  };
  for (const auto* kernel : table->snapshot->callable("matmul")) {
    if (std::string(kernel->table->driver) != "gemm") continue;
    const int64_t m = dim(*kernel, "M"), n = dim(*kernel, "N"), k = dim(*kernel, "K");
    if (m > 0 && m == n && n == k && !table->square.count(m)) table->square[m] = bind(*table, *kernel);
    if (m < 0 && n < 0 && k < 0 && !table->general) table->general = bind(*table, *kernel);
  }
  for (const auto* kernel : table->snapshot->callable("linear")) {
    if (std::string(kernel->table->driver) != "gemm") continue;
    const int64_t n = dim(*kernel, "N"), k = dim(*kernel, "K");
    if (n > 0 && k > 0 && !table->linear.count({n, k})) table->linear[{n, k}] = bind(*table, *kernel);
  }
  newest.store(table.get(), std::memory_order_release);
  return *table.release();
}

const Table& table() {
  const Table* t = newest.load(std::memory_order_acquire);
  if (t && t->generation == choice_generation()) return *t;
  return rebuild();
}

// Without measurements: B in place for few rows, which read it about once; packed for more.
Route rule_of_thumb(int64_t m, bool transposed_b) {
  if (m <= 16) return transposed_b ? Route::kDot : Route::kInPlace;
  return Route::kPack;
}

Choice by_plan(const Bound& bound, bool static_nk, int64_t plane, int64_t m, int64_t n, int64_t k, Route thumb) {
  const Mode mode = current_mode();
  Route route = thumb;
  if (!bound.plan.empty()) route = Route(bound.plan[drivers::plan_bucket(static_nk, plane, m, n, k)]);
  if (thread_route() >= 0) route = Route(thread_route());
  if (route == Route::kAten) {
    if (mode != Mode::kForce) return {nullptr, Route::kAten, reason::kSlower};
    route = thumb;
  }
  if (mode == Mode::kForce) return {bound.gemm.get(), route, reason::kForced};
  if (bound.plan.empty()) return {bound.gemm.get(), route, reason::kThumb};
  return {bound.gemm.get(), route, reason::kWins};
}

}  // namespace

Choice choose_matmul(int64_t m, int64_t n, int64_t k, bool transposed_b) {
  if (current_mode() == Mode::kOff) return {nullptr, Route::kAten, reason::kOff};
  const Table& t = table();
  if (!t.general) return {nullptr, Route::kAten, reason::kNoKernel};
  if (m <= 0 || n <= 0 || k <= 0) return {nullptr, Route::kAten, "nothing to multiply"};
  if (m == n && n == k && !transposed_b) {
    const auto found = t.square.find(m);
    if (found != t.square.end()) return by_plan(*found->second, true, 0, m, n, k, Route::kInPlace);
  }
  return by_plan(*t.general, false, transposed_b, m, n, k, rule_of_thumb(m, transposed_b));
}

Choice choose_linear(int64_t m, int64_t n, int64_t k) {
  if (current_mode() == Mode::kOff) return {nullptr, Route::kAten, reason::kOff};
  const Table& t = table();
  if (m <= 0 || n <= 0 || k <= 0) return {nullptr, Route::kAten, "nothing to multiply"};
  const auto found = t.linear.find({n, k});
  if (found != t.linear.end()) return by_plan(*found->second, true, 0, m, n, k, Route::kPrepacked);
  if (!t.general) return {nullptr, Route::kAten, reason::kNoKernel};
  return by_plan(*t.general, false, drivers::kPrepackedPlane, m, n, k, Route::kPrepacked);
}

bool gemm_serves(const tvmops_kernel* kernel) {
  for (const auto& b : table().bound)
    if (b->gemm->source == kernel) return true;
  return false;
}

void record(const char* op, std::string shape, const Choice& choice) {
  if (!recording()) return;
  record(Decision{op, std::move(shape), choice ? choice.kernel->source->name : "", drivers::route_name(choice.route),
                  choice.reason});
}

}  // namespace tvmops::ops
