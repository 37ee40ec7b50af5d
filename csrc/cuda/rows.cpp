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

// Elements: how far beyond a row the indices go that a block computes, and then does not use; twice what the threads of
// one may keep.
constexpr int64_t kReach = 1 << 19;

bool is_row(const RowsKernel& kernel, int operand) { return kernel.operand[operand].role == Role::kRow; }

// Whether the rows of an operand follow each other in memory.
bool is_contiguous(const RowsProblem& problem, int operand) {
  return problem.operand[operand].stride == problem.n || problem.outer == 1;
}

// Whether all rows are passed as one.
bool joins(const RowsKernel& kernel, const RowsProblem& problem) {
  bool every = kernel.flat;
  for (int i = 0; i < kernel.operands; i++) every &= !is_row(kernel, i) || is_contiguous(problem, i);
  return every;
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
    operand[i].role = static_cast<Role>(param(*source, "role" + number, 0, 5));
    operand[i].written = param(*source, "written" + number, 0, 1) != 0;
    operand[i].bytes = static_cast<int>(param(*source, "bytes" + number, 1, 8));
  }
  flat = param(*source, "flat", 0, 1) != 0;
  for (int i = 0; i < operands; i++)
    if (flat && !is_row(*this, i) && operand[i].role != Role::kSingle)
      throw runtime::Error(drivers::describe(*source) + ": it is flat, but not all of its operands are rows");
  drivers::check_plan(*source, rows_plan_size(by_size()));
}

const char* refusal(const RowsKernel& kernel, int64_t rows, int64_t n, int64_t inner, int variant) {
  if (inner != 1) return "rows that lie across memory";
  if (kernel.n > 0 && kernel.n != n) return "no kernel for these sizes";
  if (!kernel.launcher[variant]) return "no kernel for this activation";
  int64_t elements;
  if (__builtin_mul_overflow(rows, n, &elements) || elements > INT_MAX - kReach) return kTooLarge;
  if (elements % kernel.align != 0 || (!kernel.flat && n % kernel.align != 0)) return kRagged;
  return nullptr;
}

const char* refusal(const RowsKernel& kernel, const RowsProblem& problem) {
  if (const char* why = refusal(kernel, problem.outer, problem.n, problem.inner, problem.variant)) return why;
  for (int i = 0; i < kernel.operands; i++) {
    const RowsProblem::Data& one = problem.operand[i];
    const bool by_vectors = is_row(kernel, i) || kernel.operand[i].role == Role::kVector;
    if (by_vectors && misaligned(one.data)) return kMisaligned;
    if (!is_row(kernel, i) || is_contiguous(problem, i)) continue;
    // A thread's loads must be aligned in every row; those of a flat kernel lie in one row, too.
    const int64_t bytes = kernel.operand[i].bytes;
    if (one.stride < problem.n) return kScattered;
    int64_t end;
    if (__builtin_mul_overflow(problem.outer, one.stride, &end) || end > INT_MAX - kReach) return kTooLarge;
    if (one.stride * bytes % kAlignment != 0) return kMisalignedRows;
  }
  if (kernel.flat && !joins(kernel, problem))
    for (int i = 0; i < kernel.operands; i++)
      if (is_row(kernel, i) && problem.n * kernel.operand[i].bytes % kAlignment != 0) return kMisalignedRows;
  return nullptr;
}

RowsSizes::RowsSizes(const RowsKernel& kernel, const RowsProblem& problem) : list{problem.outer, problem.n} {
  if (joins(kernel, problem)) list[0] = 1, list[1] = problem.outer * problem.n;
  for (int i = 0; i < kernel.operands; i++)
    list[2 + i] = list[0] == 1 || is_contiguous(problem, i) ? list[1] : problem.operand[i].stride;
}

Outcome rows(const RowsKernel& kernel, const RowsProblem& problem, const RowsSizes& sizes, const Place& place) {
  void* buffers[drivers::RowsKernel::kMaxOperands] = {};
  for (int i = 0; i < kernel.operands; i++) buffers[i] = problem.operand[i].data;
  return run(kernel, kernel.launcher[problem.variant],
             {buffers, sizes.list, problem.param, place.workspace, place.stream, static_cast<int32_t>(place.device)});
}

}  // namespace tvmops::cuda
