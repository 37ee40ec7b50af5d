// Reductions on a GPU: what drivers/reduce.h is on a CPU.
//
// A launch gets the buffers x [outer, n, inner] and y [outer, inner], contiguous, the sizes outer, n, inner, pieces,
// length, wide, high, join, and the parameter divisor, by which a mean or a variance divides, otherwise 1. The last
// five sizes say how the work is shared out, by the shape alone, so that every sum has one order; what they mean is in
// codegen/cuda/reduce_cut.py, which has the same computation. Pieces of rows leave partial results in the workspace,
// which the same launch joins.
#ifndef TVMOPS_CUDA_REDUCE_H_
#define TVMOPS_CUDA_REDUCE_H_

#include <cstdint>

#include "cuda/gemm.h"
#include "cuda/kernel.h"
#include "drivers/reduce.h"

namespace tvmops::cuda {

// The params of a kernel, as ReduceShape of codegen/cuda/reduce_cut.py.
struct ReduceShape {
  int64_t threads = 0;  // of a block
  int64_t vector = 0;   // elements loaded at once
  int64_t loads = 0;    // in flight
  int64_t kept = 0;     // vectors that a thread keeps of a row along memory; 0: none
  int64_t depth = 0;    // the longest piece of rows across; 0: any
  int64_t blocks = 0;   // of a grid
};

struct ReduceKernel : Kernel {
  static constexpr const char* kDriver = "cuda_reduce";

  explicit ReduceKernel(const runtime::Kernel& kernel);  // throws runtime::Error naming a leaf or param that is missing

  Launcher launcher;
  ReduceShape shape;

  int specificity() const { return 0; }
};

// Null if the kernel can take the problem, whose result may still lack its memory; else why not.
const char* refusal(const ReduceKernel& kernel, const drivers::ReduceProblem& problem);

struct ReduceSizes {
  int64_t list[8];
  ReduceSizes(const ReduceShape& shape, int64_t outer, int64_t n, int64_t inner);
};

Outcome reduce(const ReduceKernel& kernel, const drivers::ReduceProblem& problem, const ReduceSizes& sizes,
               const Place& place);

}  // namespace tvmops::cuda

#endif  // TVMOPS_CUDA_REDUCE_H_
