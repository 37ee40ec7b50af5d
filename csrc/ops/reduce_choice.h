// Which reduction kernel serves a call, or why ATen does.
#ifndef TVMOPS_OPS_REDUCE_CHOICE_H_
#define TVMOPS_OPS_REDUCE_CHOICE_H_

#include "drivers/reduce.h"
#include "ops/kernel_table.h"

namespace tvmops::ops {

struct ReduceChoice {
  const drivers::ReduceKernel* kernel = nullptr;
  const char* reason = "";
  explicit operator bool() const { return kernel != nullptr; }
};

ReduceChoice choose_reduce(const OpKey& op, Storage storage, const drivers::ReduceProblem& problem);

bool reduce_serves(const tvmops_kernel* kernel);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_REDUCE_CHOICE_H_
