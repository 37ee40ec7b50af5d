#include "ops/choice.h"

#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "runtime/error.h"
#include "runtime/registry.h"

namespace tvmops::ops {

using drivers::GemmKernel;
using drivers::Route;
using runtime::Error;

namespace {

Mode mode_from_environment() {
  const char* value = std::getenv("TVMOPS_MODE");
  if (!value || !*value) return Mode::kAuto;
  const std::string mode = value;
  if (mode == "auto") return Mode::kAuto;
  if (mode == "force") return Mode::kForce;
  if (mode == "off") return Mode::kOff;
  throw Error("TVMOPS_MODE is '" + mode + "'; it can be auto, force or off");
}

std::atomic<int>& global_mode_cell() {
  static std::atomic<int> mode{static_cast<int>(mode_from_environment())};
  return mode;
}

thread_local int thread_mode = -1;
thread_local int thread_route = -1;
thread_local std::unique_ptr<std::vector<Decision>> decisions;

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

std::map<std::string, std::vector<uint8_t>>& plan_overrides() {
  static std::map<std::string, std::vector<uint8_t>> plans;  // guarded by table_mutex
  return plans;
}

std::vector<uint8_t> plan_locked(const tvmops_kernel& kernel) {
  const auto found = plan_overrides().find(kernel.name);
  if (found != plan_overrides().end()) return found->second;
  return {kernel.plan, kernel.plan + (kernel.plan ? kernel.n_plan : 0)};
}

const Bound* bind(Table& table, const runtime::Kernel& kernel) {
  auto b = std::make_unique<Bound>();
  b->gemm = std::make_unique<GemmKernel>(*kernel.table);
  b->plan = plan_locked(*kernel.table);
  table.bound.push_back(std::move(b));
  return table.bound.back().get();
}

// Tables that were replaced stay: a call may still be using one, and there are as many as packs and plans were loaded.
const Table& rebuild() {
  const std::lock_guard<std::mutex> lock(table_mutex);
  auto& registry = runtime::Registry::global();
  auto table = std::make_unique<Table>();
  table->snapshot = registry.snapshot();
  table->generation = table->snapshot->generation();
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
  if (t && t->generation == runtime::Registry::global().generation()) return *t;
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
  if (thread_route >= 0) route = Route(thread_route);
  if (route == Route::kAten) {
    if (mode != Mode::kForce) return {nullptr, Route::kAten, "ATen is faster at this size by the plan"};
    route = thumb;
  }
  if (mode == Mode::kForce) return {bound.gemm.get(), route, "a kernel applies; mode is force"};
  if (bound.plan.empty()) return {bound.gemm.get(), route, "a kernel applies; never timed, so by a rule of thumb"};
  return {bound.gemm.get(), route, "a kernel applies and wins at this size by the plan"};
}

}  // namespace

Mode global_mode() { return Mode(global_mode_cell().load(std::memory_order_relaxed)); }
void set_global_mode(Mode mode) { global_mode_cell().store(static_cast<int>(mode), std::memory_order_relaxed); }
Mode current_mode() { return thread_mode >= 0 ? Mode(thread_mode) : global_mode(); }

int set_thread_mode(int mode) {
  const int before = thread_mode;
  thread_mode = mode;
  return before;
}

void set_thread_route(int route) { thread_route = route; }

Choice choose_matmul(int64_t m, int64_t n, int64_t k, bool transposed_b) {
  if (current_mode() == Mode::kOff) return {nullptr, Route::kAten, "mode is off"};
  const Table& t = table();
  if (!t.general) return {nullptr, Route::kAten, "no loaded kernel runs on this CPU"};
  if (m <= 0 || n <= 0 || k <= 0) return {nullptr, Route::kAten, "nothing to multiply"};
  if (m == n && n == k && !transposed_b) {
    const auto found = t.square.find(m);
    if (found != t.square.end()) return by_plan(*found->second, true, 0, m, n, k, Route::kInPlace);
  }
  return by_plan(*t.general, false, transposed_b, m, n, k, rule_of_thumb(m, transposed_b));
}

Choice choose_linear(int64_t m, int64_t n, int64_t k) {
  if (current_mode() == Mode::kOff) return {nullptr, Route::kAten, "mode is off"};
  const Table& t = table();
  if (m <= 0 || n <= 0 || k <= 0) return {nullptr, Route::kAten, "nothing to multiply"};
  const auto found = t.linear.find({n, k});
  if (found != t.linear.end()) return by_plan(*found->second, true, 0, m, n, k, Route::kPrepacked);
  if (!t.general) return {nullptr, Route::kAten, "no loaded kernel runs on this CPU"};
  return by_plan(*t.general, false, drivers::kPrepackedPlane, m, n, k, Route::kPrepacked);
}

void set_plan(const std::string& name, std::vector<uint8_t> plan) {
  const auto* kernel = runtime::Registry::global().snapshot()->find(name);
  if (!kernel) throw Error("no kernel is called '" + name + "'");
  const auto* dims = kernel->table;
  const int64_t *n = runtime::find_dim(*dims, "N"), *k = runtime::find_dim(*dims, "K");
  const int64_t size = drivers::plan_size(n && k && *n > 0 && *k > 0);
  if (static_cast<int64_t>(plan.size()) != size)
    throw Error("the plan for '" + name + "' has " + std::to_string(plan.size()) + " entries, not " +
                std::to_string(size));
  {
    const std::lock_guard<std::mutex> lock(table_mutex);
    plan_overrides()[name] = std::move(plan);
  }
  rebuild();
}

bool serves(const tvmops_kernel* kernel) {
  for (const auto& b : table().bound)
    if (b->gemm->source == kernel) return true;
  return false;
}

std::vector<uint8_t> plan_of(const tvmops_kernel* kernel) {
  const std::lock_guard<std::mutex> lock(table_mutex);
  return plan_locked(*kernel);
}

void start_recording() { decisions = std::make_unique<std::vector<Decision>>(); }

std::vector<Decision> stop_recording() {
  std::vector<Decision> taken;
  if (decisions) taken = std::move(*decisions);
  decisions.reset();
  return taken;
}

bool recording() { return decisions != nullptr; }

void record(Decision decision) {
  if (decisions) decisions->push_back(std::move(decision));
}

void record(const char* op, std::string shape, const Choice& choice) {
  if (!decisions) return;
  record(Decision{op, std::move(shape), choice ? choice.kernel->source->name : "", drivers::route_name(choice.route),
                  choice.reason});
}

}  // namespace tvmops::ops
