#include "ops/choice.h"

#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>

#include "cuda/plan.h"
#include "drivers/gemm.h"
#include "drivers/rotary.h"
#include "drivers/rows.h"
#include "ops/gemm_choice.h"
#include "ops/gpu_gemm.h"
#include "ops/gpu_reduce.h"
#include "ops/gpu_rows.h"
#include "ops/gpu_scan.h"
#include "ops/reduce_choice.h"
#include "ops/rotary.h"
#include "ops/rows_choice.h"
#include "ops/scan_choice.h"
#include "runtime/error.h"
#include "runtime/registry.h"

namespace tvmops::ops {

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
thread_local int forced_route = -1;
thread_local std::unique_ptr<std::vector<Decision>> decisions;

std::mutex plan_mutex;
std::atomic<uint64_t> plans_set{0};

std::map<std::string, std::vector<uint8_t>>& plan_overrides() {
  static std::map<std::string, std::vector<uint8_t>> plans;  // guarded by plan_mutex
  return plans;
}

// How many entries a plan of the kernel has.
int64_t plan_size(const tvmops_kernel& kernel) {
  const auto positive = [&](const char* name) {
    const int64_t* value = runtime::find_dim(kernel, name);
    return value && *value > 0;
  };
  if (kernel.driver == std::string_view("rotary")) return drivers::rotary_plan_size();
  if (kernel.driver == std::string_view("reduce")) return drivers::rows_plan_size(false);
  if (kernel.driver == std::string_view("rows")) return drivers::rows_plan_size(drivers::RowsKernel(kernel).by_size());
  if (kernel.driver == std::string_view("scan")) return drivers::scan_plan_size();
  if (kernel.driver == std::string_view("whole")) return 1;
  if (kernel.driver == std::string_view("cuda_gemm")) return cuda::gemm_plan_size(positive("N") && positive("K"));
  if (kernel.driver == std::string_view("cuda_rows")) {
    const int64_t* flat = runtime::find_param(kernel, "flat");
    return cuda::rows_plan_size((flat && *flat) || positive("N"));
  }
  if (kernel.driver == std::string_view(cuda::ReduceKernel::kDriver)) return cuda::reduce_plan_size();
  if (kernel.driver == std::string_view("cuda_rotary")) return cuda::rows_plan_size(true);
  if (kernel.driver == std::string_view("cuda_scan")) return cuda::scan_plan_size();
  return drivers::plan_size(positive("N") && positive("K"));
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

void set_thread_route(int route) { forced_route = route; }
int thread_route() { return forced_route; }

void set_plan(const std::string& name, std::vector<uint8_t> plan) {
  const auto* kernel = runtime::Registry::global().snapshot()->find(name);
  if (!kernel) throw Error("no kernel is called '" + name + "'");
  const int64_t size = plan_size(*kernel->table);
  if (static_cast<int64_t>(plan.size()) != size)
    throw Error("the plan for '" + name + "' has " + std::to_string(plan.size()) + " entries, not " +
                std::to_string(size));
  const std::lock_guard<std::mutex> lock(plan_mutex);
  plan_overrides()[name] = std::move(plan);
  plans_set.fetch_add(1, std::memory_order_release);
}

std::vector<uint8_t> plan_of(const tvmops_kernel* kernel) {
  const std::lock_guard<std::mutex> lock(plan_mutex);
  const auto found = plan_overrides().find(kernel->name);
  if (found != plan_overrides().end()) return found->second;
  return {kernel->plan, kernel->plan + (kernel->plan ? kernel->n_plan : 0)};
}

uint64_t choice_generation() {
  // Both only grow, so that the sum tells every state from every earlier one.
  return runtime::Registry::global().generation() + plans_set.load(std::memory_order_acquire);
}

bool serves(const tvmops_kernel* kernel) {
  return gemm_serves(kernel) || rows_serves(kernel) || reduce_serves(kernel) || rotary_serves(kernel) ||
         scan_serves(kernel) || gpu_gemm_serves(kernel) || gpu_rows_serves(kernel) || gpu_rotary_serves(kernel) ||
         gpu_scan_serves(kernel) || gpu_reduce_serves(kernel);
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

void record_refusal(const char* reason) {
  if (!decisions || decisions->empty()) return;
  Decision& last = decisions->back();
  last.kernel.clear();
  last.route = "aten";
  last.reason = reason;
}

}  // namespace tvmops::ops
