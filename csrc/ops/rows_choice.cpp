#include "ops/rows_choice.h"

#include "ops/common.h"

namespace tvmops::ops {

using drivers::RowsKernel;
using drivers::RowsProblem;

namespace {

const KernelTable<RowsKernel>& table() {
  static const KernelTable<RowsKernel> rows("rows");
  return rows;
}

}  // namespace

RowsChoice choose_rows(const OpKey& op, Storage storage, int64_t outer, int64_t n, int64_t inner) {
  const Mode mode = current_mode();
  if (mode == Mode::kOff) return {nullptr, reason::kOff};
  if (inner == 1) {
    const auto* exact = table().find_whole(op, storage, outer, n);
    if (exact && mode == Mode::kForce) return {&exact->kernel, reason::kForced};
    if (exact && (exact->plan.empty() || exact->plan[0]))
      return {&exact->kernel, exact->plan.empty() ? reason::kThumb : reason::kWins};
  }
  const auto* bound = table().find(op, storage, n);
  if (!bound) return {nullptr, reason::kNoKernel};
  if (mode == Mode::kForce) return {&bound->kernel, reason::kForced};
  if (bound->plan.empty()) return {&bound->kernel, reason::kThumb};
  if (!bound->plan[drivers::rows_plan_bucket(bound->kernel.by_size(), inner > 1, n, outer * n * inner)])
    return {nullptr, reason::kSlower};
  return {&bound->kernel, reason::kWins};
}

bool rows_serves(const tvmops_kernel* kernel) { return table().serves(kernel); }

void record(const OpKey& op, const at::Tensor& shape_of, const RowsChoice& choice) {
  if (!recording()) return;
  record(Decision{op.name(), shape_text({shape_of.sizes()}), choice ? choice.kernel->source->name : "",
                  choice ? "rows" : "aten", choice.reason});
}

RowsChoice choose_rows(const OpKey& op, const at::Tensor& self, const RowsProblem& problem) {
  RowsChoice choice = choose_rows(op, storage_of(self.scalar_type()), problem.outer, problem.n, problem.inner);
  if (choice && !drivers::fits(*choice.kernel, problem)) choice = {nullptr, reason::kNotThese};
  record(op, self, choice);
  return choice;
}

bool run_rows(const OpKey& op, const at::Tensor& self, const RowsProblem& problem) {
  const RowsChoice choice = choose_rows(op, self, problem);
  if (choice) drivers::rows(*choice.kernel, problem, kAtenParallel);
  return bool(choice);
}

}  // namespace tvmops::ops
