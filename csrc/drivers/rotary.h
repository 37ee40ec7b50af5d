// Rotary position embedding: pairs of elements of a row turned by the angles of its position; threads around the leaves
// of codegen/leaves/rotary.py.
#ifndef TVMOPS_DRIVERS_ROTARY_H_
#define TVMOPS_DRIVERS_ROTARY_H_

#include <cstdint>

#include "runtime/abi.h"
#include "runtime/parallel.h"

namespace tvmops::drivers {

using runtime::ParallelFor;

// Rows of x and y [2 half + rest], ldx and ldy elements from one to the next; of cos and sin [half], ldt elements (0:
// the same for all). sign -1 turns back.
using RotaryFn = void(const void* x, void* y, const float* cos, const float* sin, int rows, int half, int rest, int ldx,
                      int ldy, int ldt, float sign);

// A kernel of the registry, bound.
struct RotaryKernel {
  explicit RotaryKernel(const tvmops_kernel& kernel);  // throws runtime::Error naming a leaf or param that is missing

  const tvmops_kernel* source;
  int64_t n = -1;              // any
  RotaryFn* halves = nullptr;  // element i goes with half + i
  RotaryFn* pairs = nullptr;   // element 2i with 2i + 1
  int64_t bytes = 0;           // of an element
  int64_t parallel_bytes = 0;  // below it one thread does it all
};

struct RotaryProblem {
  // One of the dimensions that say which row: its size and the strides, in elements, of x, y, and cos and sin.
  struct Dim {
    int64_t size = 1, x = 0, y = 0, table = 0;
  };
  static constexpr int kDims = 3;

  Dim dim[kDims];
  int64_t half = 0, rest = 0;
  bool pairs = false, inverse = false;
  const void* x = nullptr;
  void* y = nullptr;
  const float *cos = nullptr, *sin = nullptr;

  int64_t rows() const { return dim[0].size * dim[1].size * dim[2].size; }
};

// Whether the leaves' 32-bit indices reach every element.
bool fits(const RotaryKernel& kernel, const RotaryProblem& problem);

void rotary(const RotaryKernel& kernel, const RotaryProblem& problem, const ParallelFor& parallel);

// The size bucket of so many elements in a plan, and how many there are.
int64_t rotary_plan_bucket(int64_t elements);
int64_t rotary_plan_size();

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_ROTARY_H_
