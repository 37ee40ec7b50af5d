// Reductions (codegen/ops/reductions.py): leaves that reduce rows, and what is around them where rows are long: pieces,
// threads, and the joining of partial results.
//
// A row is cut into pieces by the shape alone, so that neither the number of threads nor their order shows in a result.
// Along rows a piece is `segment` elements. Across, it is `depth` elements of each row of a tile; and where there are
// few neighbouring rows, [n, inner] is seen as [n / fold, fold * inner], which fills the vectors: a piece then is every
// fold-th element.
#ifndef TVMOPS_DRIVERS_REDUCE_H_
#define TVMOPS_DRIVERS_REDUCE_H_

#include <cstdint>

#include "drivers/rows.h"
#include "runtime/abi.h"
#include "runtime/parallel.h"

namespace tvmops::drivers {

// A kernel of the registry, bound. Leaves have the prototype of row programs. Operands: `whole`, the data and the
// result; `part`, the data and the partial results, 4 bytes each; `join`, the partial results of n pieces, the result,
// and how many elements each piece had, in float32. Parameters: one over the elements of a row, the
// divisor, and one over that.
struct ReduceKernel {
  static constexpr int kMaxParts = 3;
  struct Leaf {
    RowsFn* row = nullptr;  // rows are contiguous
    RowsFn* column = nullptr;
  };

  explicit ReduceKernel(const tvmops_kernel& kernel);  // throws runtime::Error naming a leaf or param that is missing

  const tvmops_kernel* source;
  int64_t n = -1;  // any
  Leaf whole, part, join;
  RowsFn* whole_short = nullptr;  // for contiguous rows of at most `short_n` elements; may be null
  RowsFn* whole_few = nullptr;    // for rows across of at most `few_n`; may be null
  int64_t short_n = 0, few_n = 0;
  int bytes = 0, result_bytes = 0;
  int parts = 0;               // partial results
  bool indexed = false;        // the second of them is an index in the piece
  bool twice = false;          // a row is walked more than once
  int64_t tile = 0;            // rows across that a leaf takes together
  int64_t segment = 0;         // elements of a piece of a contiguous row
  int64_t depth = 0;           // and of rows that lie across
  int64_t parallel_bytes = 0;  // below it one thread does it all
};

// [outer, n, inner], reduced along n to `y`, contiguous [outer, inner]. Neighbouring rows are neighbours in memory;
// with inner == 1 so are the elements of a row.
struct ReduceProblem {
  const void* x = nullptr;
  void* y = nullptr;
  int64_t outer = 1, n = 1, inner = 1;
  int64_t outer_stride = 0, n_stride = 0;  // in elements
  float divisor = 1;
  // If not 0: the results, seen as [again_outer, again_n, again_inner], are reduced once more. Not for an index.
  int64_t again_outer = 0, again_n = 0, again_inner = 0;
};

// Whether the leaves' 32-bit indices reach every element.
bool fits(const ReduceKernel& kernel, const ReduceProblem& problem);

void reduce(const ReduceKernel& kernel, const ReduceProblem& problem, const ParallelFor& parallel);

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_REDUCE_H_
