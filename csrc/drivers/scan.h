// Prefix sums and products along one dimension of a contiguous tensor: segments, blocks, threads and streaming stores
// around the leaves of codegen/leaves/scan.py; and the gradient of products, which is a scan between two pointwise
// steps.
//
// Sums and products are accumulated in float64. A row is cut into segments of a fixed length; an element is what
// precedes its segment, combined with the prefix within it. Neither depends on the number of threads, so the bits
// don't.
#ifndef TVMOPS_DRIVERS_SCAN_H_
#define TVMOPS_DRIVERS_SCAN_H_

#include <cstdint>

#include "runtime/abi.h"
#include "runtime/parallel.h"

namespace tvmops::drivers {

using runtime::ParallelFor;

// row: s and d [rows, n] with strides lds and ldd, carry[rows]. total, of sums: the same, but d is not written. column
// and serial: down the columns of [rows, n], carry[n]. p and q, strides lds, are null but in gradients. extreme: set if
// the result is no good, because a group of elements of a product may over- or underflow by itself (serial then will
// do), or because there is a zero in q.
using ScanFn = void(const void* s, const void* p, const void* q, void* d, double* carry, int* extreme, double* work,
                    int rows, int n, int lds, int ldd);

// A kernel of the registry, bound.
struct ScanKernel {
  static constexpr int kMaxWork = 1 << 12;

  explicit ScanKernel(const tvmops_kernel& kernel);  // throws runtime::Error naming a leaf or param that is missing

  const tvmops_kernel* source;
  int64_t n = -1;         // any
  ScanFn* row[2] = {};    // forward, reverse
  ScanFn* total[2] = {};  // forward, reverse; of sums only
  ScanFn* column = nullptr;
  ScanFn* serial = nullptr;    // of products only
  int bytes = 0;               // of an element
  bool product = false;        // else a sum
  int identity_bits = 0;       // 0 or 1, as an element
  int64_t segment = 0;         // elements of a row that are scanned by one call
  int64_t panel = 0;           // columns that go down together
  int64_t depth = 0;           // and by how many rows at a time
  int64_t parallel_bytes = 0;  // below it one thread does it all
  int64_t stream_bytes = 0;    // from it on, results bypass the caches

  double identity() const { return product ? 1.0 : 0.0; }
};

// Contiguous [outer, n, inner], scanned along n. `exclusive` leaves out the element itself; `reverse` begins at the
// end.
struct ScanProblem {
  int64_t outer, n, inner;
  const void* source;
  void* target;  // must not overlap what is read
  bool exclusive, reverse;
  // Of the gradient of a product, laid out as the source: target = scan(source * factor) / divisor.
  const void* factor = nullptr;
  const void* divisor = nullptr;
};

// Whether the leaves' 32-bit indices reach every element.
bool fits(const ScanKernel& kernel, const ScanProblem& problem);

// Returns false if a divisor is zero; the target then is garbage.
bool scan(const ScanKernel& kernel, const ScanProblem& problem, const ParallelFor& parallel);

// The size bucket of a problem in a plan, by form (row or column), n and size, and how many there are.
int64_t scan_plan_bucket(bool column, int64_t n, int64_t elements);
int64_t scan_plan_size();

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_SCAN_H_
