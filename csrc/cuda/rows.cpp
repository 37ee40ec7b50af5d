#include "cuda/rows.h"

#include <algorithm>
#include <climits>
#include <iterator>

#include "cuda/plan.h"
#include "drivers/binding.h"

namespace tvmops::cuda {

using drivers::Role;
using drivers::RowsProblem;

namespace {

constexpr uintptr_t kAlignment = 16;  // bytes: what a thread loads at once

// Whether all rows may be passed as one.
bool joins(const RowsKernel& kernel) {
  return kernel.flat && std::all_of(kernel.operand, kernel.operand + kernel.operands,
                                    [](const drivers::RowsOperand& o) { return o.role == Role::kRow; });
}

}  // namespace

RowsKernel::RowsKernel(const runtime::Kernel& kernel) : Kernel(kernel) {
  using drivers::param;
  for (int a = 0; a < drivers::kActivations; a++) launcher[a] = Launcher::find(*source, drivers::kActivationNames[a]);
  if (const Launcher only = Launcher::find(*source, "")) launcher[drivers::kNone] = only;
  if (std::none_of(std::begin(launcher), std::end(launcher), [](const Launcher& l) { return bool(l); }))
    throw runtime::Error(drivers::describe(*source) + ": leaf 'launch', of any activation, is missing");
  n = drivers::dim(*source, "N");
  if (runtime::find_param(*source, "align")) align = param(*source, "align", 1, 64);
  operands = static_cast<int>(param(*source, "operands", 1, drivers::RowsKernel::kMaxOperands));
  for (int i = 0; i < operands; i++) {
    const std::string number = std::to_string(i);
    operand[i].role = static_cast<Role>(param(*source, "role" + number, 0, 4));
    operand[i].written = param(*source, "written" + number, 0, 1) != 0;
    operand[i].bytes = static_cast<int>(param(*source, "bytes" + number, 1, 8));
  }
  flat = param(*source, "flat", 0, 1) != 0;
  if (flat && !joins(*this))
    throw runtime::Error(drivers::describe(*source) + ": it is flat, but not all of its operands are rows");
  drivers::check_plan(*source, rows_plan_size(by_size()));
}

const char* refusal(const RowsKernel& kernel, int64_t rows, int64_t n, int64_t inner, int variant) {
  if (inner != 1) return "rows that lie across memory";
  if (kernel.n > 0 && kernel.n != n) return "no kernel for these sizes";
  if (!kernel.launcher[variant]) return "no kernel for this activation";
  if (rows * n % kernel.align != 0 || (!joins(kernel) && n % kernel.align != 0)) return kRagged;
  int64_t elements;
  if (__builtin_mul_overflow(rows, n, &elements) || elements > INT_MAX) return kTooLarge;
  return nullptr;
}

const char* refusal(const RowsKernel& kernel, const RowsProblem& problem) {
  if (const char* why = refusal(kernel, problem.outer, problem.n, problem.inner, problem.variant)) return why;
  for (int i = 0; i < kernel.operands; i++) {
    const RowsProblem::Data& one = problem.operand[i];
    if (kernel.operand[i].role == Role::kRow && one.stride != problem.n && problem.outer > 1) return kScattered;
    if (reinterpret_cast<uintptr_t>(one.data) % kAlignment != 0) return kMisaligned;
  }
  return nullptr;
}

RowsSizes::RowsSizes(const RowsKernel& kernel, const RowsProblem& problem)
    : list{joins(kernel) ? 1 : problem.outer, joins(kernel) ? problem.outer * problem.n : problem.n} {}

Outcome rows(const RowsKernel& kernel, const RowsProblem& problem, const RowsSizes& sizes, const Place& place) {
  void* buffers[drivers::RowsKernel::kMaxOperands] = {};
  for (int i = 0; i < kernel.operands; i++) buffers[i] = problem.operand[i].data;
  return run(kernel, kernel.launcher[problem.variant],
             {buffers, sizes.list, problem.param, place.workspace, place.stream, static_cast<int32_t>(place.device)});
}

}  // namespace tvmops::cuda
