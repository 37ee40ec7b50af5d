#include "ops/scan_choice.h"

#include "ops/common.h"

namespace tvmops::ops {

using drivers::ScanKernel;
using drivers::ScanProblem;

namespace {

const KernelTable<ScanKernel>& table() {
  static const KernelTable<ScanKernel> scans("scan");
  return scans;
}

}  // namespace

ScanChoice choose_scan(const OpKey& op, Storage storage, const ScanProblem& problem) {
  const Mode mode = current_mode();
  if (mode == Mode::kOff) return {nullptr, reason::kOff};
  const auto* bound = table().find(op, storage, -1);
  if (!bound) return {nullptr, reason::kNoKernel};
  if (!drivers::fits(bound->kernel, problem)) return {nullptr, "sizes beyond 32 bits"};
  if (mode == Mode::kForce) return {&bound->kernel, reason::kForced};
  const auto& [outer, n, inner] = std::tie(problem.outer, problem.n, problem.inner);
  if (bound->plan.empty()) {
    // Vectors run along a row: a short one leaves most lanes idle.
    if (inner == 1 && n <= 8) return {nullptr, "rows too short to gain"};
    return {&bound->kernel, reason::kThumb};
  }
  if (!bound->plan[drivers::scan_plan_bucket(inner > 1, n, outer * n * inner)]) return {nullptr, reason::kSlower};
  return {&bound->kernel, reason::kWins};
}

bool scan_serves(const tvmops_kernel* kernel) { return table().serves(kernel); }

void record(const OpKey& op, const at::Tensor& shape_of, const ScanChoice& choice) {
  if (!recording()) return;
  record(Decision{op.name(), shape_text({shape_of.sizes()}), choice ? choice.kernel->source->name : "",
                  choice ? "scan" : "aten", choice.reason});
}

}  // namespace tvmops::ops
