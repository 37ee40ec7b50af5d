// Whole kernels: functions of tensors with static shapes that TVM scheduled, parallel loops included.
#ifndef TVMOPS_DRIVERS_WHOLE_H_
#define TVMOPS_DRIVERS_WHOLE_H_

#include <cstdint>

#include "runtime/abi.h"
#include "runtime/shim.h"

namespace tvmops::drivers {

// A kernel of the registry, bound.
struct WholeKernel {
  // Throws runtime::Error if the kernel lacks something.
  explicit WholeKernel(const tvmops_kernel& kernel);

  // The tensors are the inputs, params of one element, and results, in the order of the definition, of the shapes and
  // dtypes that the kernel was made for, compact and aligned to 64 bytes. Throws runtime::Error if they are not.
  void run(runtime::ffi::Tensor* const* tensors, int32_t count) const;

  const tvmops_kernel* source;
  runtime::PackedFunction function;
  int32_t arguments;  // tensors, of which the last `outputs` are results
  int32_t outputs;
};

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_WHOLE_H_
