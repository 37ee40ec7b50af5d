// Row programs on a GPU: what drivers/rows.h is on a CPU, over rows whose elements are neighbours.
//
// A launch gets the operands of the program in order, the sizes rows and n and for each operand its stride from row to
// row (of those that are rows), and the program's parameters. A program with activations has a launch for each of them,
// "launch.gelu" and so on. Partial operands are sums over all rows, as on a CPU; whoever calls brings memory for all of
// them.
#ifndef TVMOPS_CUDA_ROWS_H_
#define TVMOPS_CUDA_ROWS_H_

#include <cstdint>

#include "cuda/gemm.h"
#include "cuda/kernel.h"
#include "drivers/rows.h"

namespace tvmops::cuda {

struct RowsKernel : Kernel {
  static constexpr const char* kDriver = "cuda_rows";

  explicit RowsKernel(const runtime::Kernel& kernel);  // throws runtime::Error naming a leaf or param that is missing

  Launcher launcher[drivers::kActivations];
  int64_t n = -1;     // static length of a row; -1: any
  int64_t align = 1;  // of n, in elements; of flat work, of the whole
  int operands = 0;
  drivers::RowsOperand operand[drivers::RowsKernel::kMaxOperands] = {};
  bool flat = false;  // no element depends on another: rows that follow each other in memory are passed as one

  bool by_size() const { return flat || n > 0; }
  int specificity() const { return n > 0; }
};

// Null if the kernel can take rows of these sizes and this activation; else why not.
const char* refusal(const RowsKernel& kernel, int64_t rows, int64_t n, int64_t inner, int variant);
// The same for a problem, whose results may still lack their memory but not their strides.
const char* refusal(const RowsKernel& kernel, const drivers::RowsProblem& problem);

struct RowsSizes {
  int64_t list[2 + drivers::RowsKernel::kMaxOperands];
  RowsSizes(const RowsKernel& kernel, const drivers::RowsProblem& problem);
};

Outcome rows(const RowsKernel& kernel, const drivers::RowsProblem& problem, const RowsSizes& sizes, const Place& place);

}  // namespace tvmops::cuda

#endif  // TVMOPS_CUDA_ROWS_H_
