// Row programs: leaves that work on rows of a tensor, one or several passes each (codegen/leaves/rows.py), with
// threads, blocks and streaming stores around them. Activations, softmax, normalisation and reductions all run through
// here.
#ifndef TVMOPS_DRIVERS_ROWS_H_
#define TVMOPS_DRIVERS_ROWS_H_

#include <cstdint>
#include <memory>

#include "drivers/activation.h"
#include "drivers/whole.h"
#include "runtime/abi.h"
#include "runtime/parallel.h"

namespace tvmops::drivers {

using runtime::ParallelFor;

// Pointers and strides (in elements) of up to ten operands, rows, n, up to four parameters. What a program does not
// have is null or 0.
using RowsFn = void(void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, int, int, int, int, int, int,
                    int, int, int, int, int rows, int n, float, float, float, float);

// row: an element per element of the row; vector: [n], the same for all rows; scalar: one per row; partial: [n],
// float32, the sum over all rows; scratch: float32, room for the row (in column form, the tile) that is worked on;
// single: one element for all rows, of programs for GPUs alone.
enum class Role : uint8_t { kRow, kVector, kScalar, kPartial, kScratch, kSingle };

struct RowsOperand {
  Role role;
  bool written;
  int bytes;  // of an element
};

// A kernel of the registry, bound.
struct RowsKernel {
  static constexpr int kMaxOperands = 10, kMaxParams = 4;

  explicit RowsKernel(const tvmops_kernel& kernel);  // throws runtime::Error naming a leaf or param that is missing

  const tvmops_kernel* source;
  int64_t n = -1;  // static length of a row; -1: any
  int64_t m = -1;  // static number of rows
  int operands = 0;
  RowsOperand operand[kMaxOperands] = {};
  bool flat = false;  // no element depends on another: where memory is contiguous, rows may be cut anywhere
  // By activation, where the program knows it; programs without one have only the first. The row is contiguous, or lies
  // across neighbouring rows.
  RowsFn* row[kActivations] = {};
  RowsFn* column[kActivations] = {};
  int64_t height = 1;          // rows that go side by side in row form
  int64_t tile = 0;            // rows of a tile in column form
  int64_t parallel_bytes = 0;  // below it one thread does it all
  int64_t stream_bytes = 0;    // from it on, results bypass the caches
  int64_t block_bytes = 0;     // what is computed before it is streamed out

  // A program of static size that TVM scheduled as a whole. Where its demands on memory are not met, `general` serves.
  std::shared_ptr<const WholeKernel> whole;
  const RowsKernel* general = nullptr;

  bool by_size() const { return flat || n > 0; }  // see rows_plan_bucket
};

// A leaf of a row program with all its operands.
inline void call_rows(RowsFn* leaf, void* const (&p)[RowsKernel::kMaxOperands],
                      const int (&s)[RowsKernel::kMaxOperands], int64_t rows, int64_t n, const float* f) {
  leaf(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8],
       s[9], static_cast<int>(rows), static_cast<int>(n), f[0], f[1], f[2], f[3]);
}

// A tensor seen as [outer, n, inner]: outer * inner rows of n elements, inner elements apart.
struct RowsProblem {
  struct Data {
    void* data = nullptr;
    int64_t stride = 0;  // of a row operand with inner == 1: from row to row, in elements
  };

  int64_t outer = 1, n = 1, inner = 1;
  int variant = 0;  // an Activation
  // In the kernel's order. With inner > 1 row operands are contiguous [outer, n, inner], scalar ones [outer, inner].
  // Scratch is the driver's to fill in.
  Data operand[RowsKernel::kMaxOperands];
  float param[RowsKernel::kMaxParams] = {};

  int64_t rows() const { return outer * inner; }
};

// Whether the kernel has the leaf that the problem needs, and its 32-bit indices reach every element.
bool fits(const RowsKernel& kernel, const RowsProblem& problem);

// Runs a problem that fits. A written operand may be the very memory of a row operand only if the program reads that in
// no later pass. Partial operands are overwritten with the sums, or may be null; their bits don't depend on the number
// of threads.
void rows(const RowsKernel& kernel, const RowsProblem& problem, const ParallelFor& parallel);

// The size bucket of a problem in a plan, and how many there are: by size alone for flat kernels and those of a static
// n, else by form (row or column), length of the row, and size.
int64_t rows_plan_bucket(bool by_size, bool column, int64_t n, int64_t elements);
int64_t rows_plan_size(bool by_size);

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_ROWS_H_
