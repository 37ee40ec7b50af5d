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

RowsChoice of_gpu(const GpuRowsChoice& choice) { return {nullptr, choice.reason, choice.kernel}; }

const char* name_of(const RowsChoice& choice) {
  return choice.on_gpu ? choice.on_gpu->source->name : choice.kernel ? choice.kernel->source->name : "";
}

}  // namespace

RowsChoice choose_rows(const OpKey& op, Storage storage, int64_t outer, int64_t n, int64_t inner) {
  if (gpu()) return of_gpu(choose_gpu_rows(op, storage, outer, n, inner));
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
  record(Decision{op.name(), shape_text({shape_of.sizes()}), name_of(choice),
                  choice.on_gpu ? cuda::RowsKernel::kDriver
                  : choice      ? "rows"
                                : "aten",
                  choice.reason});
}

RowsChoice choose_rows(const OpKey& op, const at::Tensor& self, const RowsProblem& problem) {
  const Storage storage = storage_of(self.scalar_type());
  RowsChoice choice;
  if (gpu()) {
    choice = of_gpu(choose_gpu_rows(op, storage, problem));
  } else {
    choice = choose_rows(op, storage, problem.outer, problem.n, problem.inner);
    check_fits(choice, problem);
  }
  record(op, self, choice);
  return choice;
}

void check_fits(RowsChoice& choice, const RowsProblem& problem) {
  if (choice.kernel && !drivers::fits(*choice.kernel, problem)) choice = {nullptr, reason::kNotThese};
  if (const char* refusal = choice.on_gpu ? cuda::refusal(*choice.on_gpu, problem) : nullptr)
    choice = {nullptr, refusal};
}

bool run_chosen(const RowsChoice& choice, const RowsProblem& problem) {
  if (!choice.on_gpu) {
    drivers::rows(*choice.kernel, problem, kAtenParallel);
    return true;
  }
  const char* refusal = cuda::refusal(*choice.on_gpu, problem);
  if (!refusal) refusal = run_gpu_rows(*choice.on_gpu, problem).refusal;
  if (refusal) record_refusal(refusal);
  return !refusal;
}

bool run_rows(const OpKey& op, const at::Tensor& self, const RowsProblem& problem) {
  const RowsChoice choice = choose_rows(op, self, problem);
  return choice && run_chosen(choice, problem);
}

}  // namespace tvmops::ops
