// Matrix products on a GPU: C[b] = activation(A[b] @ B[b] + bias) + residual[b], accumulated and finished in float32.
//
// A launch gets the buffers A, B, C, bias, residual and the sizes batch, M, N, K, lda, ldb, activation, flags (bit 0:
// there is a bias, bit 1: a residual; one that there is not is passed as C and not read). A is [batch, M, lda], of
// whose rows the first K are used, or, transposed in memory, [batch, K, lda]; B is [batch, K, ldb] or [batch, N, ldb];
// C and the residual are [batch, M, N], the bias is [N]. Of the rows of a transposed A a launch may read on, within
// lda, to a multiple of the kernel's alignment; nothing depends on what is there.
#ifndef TVMOPS_CUDA_GEMM_H_
#define TVMOPS_CUDA_GEMM_H_

#include <cstdint>

#include "cuda/kernel.h"

namespace tvmops::cuda {

struct GemmKernel : Kernel {
  static constexpr const char* kDriver = "cuda_gemm";

  explicit GemmKernel(const runtime::Kernel& kernel);  // throws runtime::Error naming a leaf or param that is missing

  Launcher launcher;
  int64_t n = -1, k = -1;  // static sizes; -1: any
  int64_t rows = 0;        // only for so many rows at most; 0: any number
  int64_t align = 1;       // of contiguous extents, in elements
  int64_t split = 1;       // partial sums of every result, in the workspace
  int64_t reach = 0;       // how far beyond a matrix tiles may begin or end: indices of it are computed, and not used
  bool transposed_a = false, transposed_b = false;
  bool tf32 = false;  // rounds float32 operands to TF32

  bool static_nk() const { return n > 0 && k > 0; }
  // The higher, the fewer calls it is for, and the earlier it is tried.
  int specificity() const { return (n > 0) + (k > 0) + (rows > 0); }
};

struct GemmProblem {
  int64_t batch, m, n, k;
  // How rows follow each other in memory; transposed: how columns do.
  int64_t lda, ldb;
  bool transposed_a, transposed_b;
  const void *a, *b, *bias, *residual;  // bias and residual may be null
  void* c;
  int activation;
  int64_t last_a = 0;  // of a transposed A: the elements that there are of its last row in memory
};

// Null if the kernel can compute the problem, whose `c` may be open; else why not.
const char* refusal(const GemmKernel& kernel, const GemmProblem& problem);

// The sizes of a launch.
struct GemmSizes {
  int64_t list[8];
  explicit GemmSizes(const GemmProblem& problem);
};

// Where a launch is to happen, and in what memory.
struct Place {
  int device;
  void* stream;
  void* workspace;
};

Outcome gemm(const GemmKernel& kernel, const GemmProblem& problem, const GemmSizes& sizes, const Place& place);

// Why no kernel of a GPU serves a call, in the words of tvmops.explain.
inline constexpr const char* kMisaligned = "an operand does not begin at a multiple of 16 bytes";
inline constexpr const char* kMisalignedRows = "rows do not begin at multiples of 16 bytes";
inline constexpr const char* kRagged = "a size or stride is not the multiple that the kernels need";
inline constexpr const char* kTooLarge = "sizes beyond 32 bits";
inline constexpr const char* kScattered = "operands that are not contiguous";

}  // namespace tvmops::cuda

#endif  // TVMOPS_CUDA_GEMM_H_
