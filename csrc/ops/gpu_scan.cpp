#include "ops/gpu_scan.h"

#include <algorithm>

#include "cuda/plan.h"
#include "cuda/scan.h"
#include "ops/common.h"
#include "ops/gpu.h"
#include "ops/rows_choice.h"

namespace tvmops::ops {

using at::Tensor;
using drivers::RotaryProblem;
using drivers::ScanProblem;

namespace {

const GpuTable<cuda::ScanKernel>& scans() {
  static const GpuTable<cuda::ScanKernel> table(&slot_by_operator);
  return table;
}

const GpuTable<cuda::RotaryKernel>& rotaries() {
  static const GpuTable<cuda::RotaryKernel> table(&slot_by_operator);
  return table;
}

GpuChoice<cuda::ScanKernel> choose(const OpKey& op, Storage storage, const ScanProblem& p) {
  return choose_on_gpu<cuda::ScanKernel>(
      scans(), slot_of(op, storage), gpu_index(),
      [&](const cuda::ScanKernel& kernel) { return cuda::refusal(kernel, p); },
      [&](const cuda::ScanKernel&) { return cuda::scan_plan_bucket(p.outer, p.n, p.inner); });
}

}  // namespace

bool scan_on_gpu(const OpKey& op, std::initializer_list<std::reference_wrapper<const Tensor>> read, ScanProblem problem,
                 Tensor& out) {
  const Tensor& first = *read.begin();
  GpuChoice<cuda::ScanKernel> choice{nullptr, cuda::kScattered};
  // A copy would cost as much as the kernel.
  if (std::all_of(read.begin(), read.end(), [](const Tensor& t) { return t.is_contiguous(); })) {
    problem.source = first.const_data_ptr();
    if (read.size() > 1) {
      problem.divisor = read.begin()[1].get().const_data_ptr();
      problem.factor = read.begin()[2].get().const_data_ptr();
    }
    if (out.defined()) problem.target = out.mutable_data_ptr();
    choice = choose(op, storage_of(first.scalar_type()), problem);
  }
  if (choice) {
    if (!out.defined()) out = new_gpu_tensor(first.sizes(), first.scalar_type());
    problem.target = out.mutable_data_ptr();
    const cuda::ScanSizes sizes(problem);
    const GpuPlace place(choice.kernel->launcher.workspace_bytes(sizes.list));
    const cuda::Outcome outcome = cuda::scan(*choice.kernel, problem, sizes, *place);
    if (!outcome) choice = {nullptr, outcome.refusal};
  }
  if (recording())
    record(Decision{op.name(), shape_text({first.sizes()}), choice ? choice.kernel->source->name : "",
                    choice ? cuda::ScanKernel::kDriver : "aten", choice.reason});
  return bool(choice);
}

GpuChoice<cuda::RotaryKernel> choose_gpu_rotary(const OpKey& op, Storage storage, int64_t elements) {
  return choose_on_gpu<cuda::RotaryKernel>(
      rotaries(), slot_of(op, storage), gpu_index(), [](const cuda::RotaryKernel&) -> const char* { return nullptr; },
      [&](const cuda::RotaryKernel&) { return cuda::rows_plan_bucket(true, 1, elements); });
}

const char* run_gpu_rotary(const cuda::RotaryKernel& kernel, const RotaryProblem& problem) {
  if (const char* why = cuda::refusal(kernel, problem)) return why;
  const GpuPlace place(0);
  return cuda::rotary(kernel, problem, *place).refusal;
}

bool gpu_scan_serves(const tvmops_kernel* kernel) { return scans().serves(kernel); }
bool gpu_rotary_serves(const tvmops_kernel* kernel) { return rotaries().serves(kernel); }

}  // namespace tvmops::ops
