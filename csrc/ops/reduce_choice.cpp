#include "ops/reduce_choice.h"

namespace tvmops::ops {

using drivers::ReduceKernel;
using drivers::ReduceProblem;

namespace {

const KernelTable<ReduceKernel>& table() {
  static const KernelTable<ReduceKernel> kernels("reduce");
  return kernels;
}

}  // namespace

ReduceChoice choose_reduce(const OpKey& op, Storage storage, const ReduceProblem& p) {
  const Mode mode = current_mode();
  if (mode == Mode::kOff) return {nullptr, reason::kOff};
  const auto* bound = table().find(op, storage, p.n);
  if (!bound) return {nullptr, reason::kNoKernel};
  if (!fits(bound->kernel, p)) return {nullptr, "no kernel for these sizes and strides"};
  if (mode == Mode::kForce) return {&bound->kernel, reason::kForced};
  if (bound->plan.empty()) return {&bound->kernel, reason::kThumb};
  if (!bound->plan[drivers::rows_plan_bucket(false, p.inner > 1, p.n, p.outer * p.n * p.inner)])
    return {nullptr, reason::kSlower};
  return {&bound->kernel, reason::kWins};
}

bool reduce_serves(const tvmops_kernel* kernel) { return table().serves(kernel); }

}  // namespace tvmops::ops
