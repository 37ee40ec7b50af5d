// How the runtime and the drivers are handed a thread pool: two plain function pointers.
#ifndef TVMOPS_RUNTIME_PARALLEL_H_
#define TVMOPS_RUNTIME_PARALLEL_H_

#include <cstdint>

namespace tvmops::runtime {

// Works on [begin, end). May throw (a driver's scratch may be refused), see run.
using RangeBody = void (*)(void* context, int64_t begin, int64_t end);

struct ParallelFor {
  // Calls the body for disjoint ranges that cover [0, count), perhaps from several threads at once, and returns when
  // all of them have; if one throws, one of the exceptions comes out here, in the calling thread.
  void (*run)(int64_t count, RangeBody body, void* context);
  // How many threads run() would use now, at least 1 (1 within a parallel region).
  int (*threads)();
};

// In the calling thread.
inline constexpr ParallelFor kSerial = {
    [](int64_t count, RangeBody body, void* context) {
      if (count > 0) body(context, 0, count);
    },
    [] { return 1; },
};

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_PARALLEL_H_
