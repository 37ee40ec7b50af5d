// C = epilogue(A @ B), float32, for any M, N, K and strides: cache blocking, packing and threads around leaf kernels.
//
// Every element of C is the sum, in order, of one fused multiply-add chain per `chain` consecutive k (at most kFewChain
// where rows or columns are few). Neither the number of threads nor where a tile falls changes that, so the bits depend
// on the operands, the kernel and the route alone.
//
// Source of the loop structure: K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", ACM
// TOMS 34(3), 2008; here a packed tile of A stays in L1 and the panels of B stream past it from L2 or L3.
#ifndef TVMOPS_DRIVERS_GEMM_H_
#define TVMOPS_DRIVERS_GEMM_H_

#include <cstdint>

#include "drivers/activation.h"
#include "runtime/abi.h"
#include "runtime/parallel.h"

namespace tvmops::drivers {

using runtime::ParallelFor;

// Leaves, by the name codegen/spaces/gemm.py gives them. All ints are 32 bits.
using TileFn = void(const float* a, const float* b, float* c, int k, int lda, int ldb, int ldc, int w, int beta);
using DotFn = void(const float* a, const float* b, float* c, int k, int lda, int ldb, int ldc);
using PackRowsFn = void(const float* s, float* d, int k, int lds, int w);
using CopyFn = void(const float* s, float* d, int rows, int cols, int lds, int ldd);
using EpilogueFn = void(float* c, const float* bias, const float* residual, int r, int ldc, int ldr, int w, int flags,
                        float alpha, float beta);

// How a call is computed; the values of a kernel's plan.
enum class Route : uint8_t { kAten = 0, kInPlace = 1, kPack = 2, kDot = 3, kPrepacked = 4 };
const char* route_name(Route route);

// A kernel of the registry, bound: leaves as typed pointers, params as fields.
struct GemmKernel {
  static constexpr int kMaxRows = 32, kMaxDotRows = 4;
  // With up to so many rows or columns ATen sums dot products in many lanes, each a short chain, and its error, of
  // which ours may be twice, is about half of that elsewhere.
  static constexpr int kFewRows = 3, kFewColumns = 8, kFewChain = 64;

  explicit GemmKernel(const tvmops_kernel& kernel);  // throws runtime::Error naming a leaf or param that is missing

  const tvmops_kernel* source;
  int64_t m = -1, n = -1, k = -1;  // static sizes; -1: any
  int mr = 0, nr = 0, narrow = 0, wide = 0;
  int kc = 0, nc = 0, mc = 0;        // block sizes, in elements
  int chain = 0;                     // the longest run of k that is summed in one accumulator: bounds the error
  int skinny_rows = 0;               // up to this many rows B passes once, panel by panel
  int wide_rows = 0, wide_step = 0;  // up to wide_rows rows a B in place is swept wide_step rows at a time
  int copy_a = 0;  // copy tiles of a row-major A: 0 never, 1 where its rows fall on the same cache sets, 2 always
  int64_t parallel_work = 0;  // M*N*K below which one thread does it all

  TileFn* tile[kMaxRows + 1] = {};
  TileFn* tile_narrow[kMaxRows + 1] = {};
  TileFn* tile_wide[kMaxRows + 1] = {};
  int dot_columns = 0;
  DotFn* dot[kMaxDotRows + 1] = {};         // dot_columns columns at a time
  DotFn* dot_single[kMaxDotRows + 1] = {};  // one column
  PackRowsFn* pack_rows = nullptr;
  CopyFn* copy = nullptr;
  CopyFn* transpose = nullptr;
  EpilogueFn* epilogue[kActivations] = {};

  int64_t panels(int64_t columns) const { return (columns + nr - 1) / nr; }
  // Floats in a prepacked B: whole panels, each [K, nr].
  int64_t packed_size(int64_t columns, int64_t depth) const { return panels(columns) * nr * depth; }
};

// A matrix in memory: element (i, j) at data[i * row + j * column], strides in elements.
struct MatrixView {
  const float* data;
  int64_t row, column;
};

struct Epilogue {
  int activation = kNone;
  const float* bias = nullptr;      // [N]
  const float* residual = nullptr;  // [M, N], row stride residual_row, unit column stride
  int64_t residual_row = 0;
  float alpha = 1.0f, beta = 1.0f;  // activation(alpha * A @ B + bias) + beta * residual
  bool trivial() const { return activation == kNone && !bias && !residual && alpha == 1.0f; }
};

struct GemmProblem {
  int64_t m, n, k;
  MatrixView a, b;        // b.data is null when packed_b is given
  const float* packed_b;  // from pack_b with the same kernel, or null
  float* c;               // row-major
  int64_t ldc;            // >= n
  Epilogue epilogue;
};

// Whether leaf indices, which are 32 bits wide, reach every element of the problem.
bool fits(const GemmKernel& kernel, const GemmProblem& problem);

// Computes the problem by `route`, which is not kAten. C must not overlap an operand.
void gemm(const GemmKernel& kernel, const GemmProblem& problem, Route route, const ParallelFor& parallel);

// The same for `batch` problems; operand i starts at the given element offsets from the one in `problem`.
struct BatchOffsets {
  const int64_t *a, *b, *c, *residual;  // null: all zero
};
void gemm_batch(const GemmKernel& kernel, const GemmProblem& problem, int64_t batch, const BatchOffsets& offsets,
                Route route, const ParallelFor& parallel);

// packed[panel, k, nr] of a [depth, columns] matrix b, zero beyond the last column; packed is 64-byte aligned.
void pack_b(const GemmKernel& kernel, MatrixView b, int64_t depth, int64_t columns, float* packed,
            const ParallelFor& parallel);

// The size bucket of (m, n, k) in a plan: plan[plane][m][n][k], or plan[m] when n and k are static. The planes: B
// row-major, B transposed, B prepacked.
constexpr int64_t kRowMajorPlane = 0, kTransposedPlane = 1, kPrepackedPlane = 2, kPlanes = 3;
int64_t plan_bucket(bool static_nk, int64_t plane, int64_t m, int64_t n, int64_t k);
int64_t plan_size(bool static_nk);

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_GEMM_H_
