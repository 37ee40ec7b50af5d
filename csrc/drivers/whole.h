// Whole kernels: functions of tensors with static shapes that TVM scheduled, parallel loops included.
#ifndef TVMOPS_DRIVERS_WHOLE_H_
#define TVMOPS_DRIVERS_WHOLE_H_

#include <cstdint>
#include <vector>

#include "runtime/abi.h"
#include "runtime/shim.h"

namespace tvmops::drivers {

// A kernel of the registry, bound.
struct WholeKernel {
  struct Argument {
    runtime::ffi::DataType dtype;
    std::vector<int64_t> shape;
  };

  // Throws runtime::Error if the kernel lacks something.
  explicit WholeKernel(const tvmops_kernel& kernel);

  // The tensors are the inputs, params of one element, and results, in the order of the definition, of the shapes and
  // dtypes that the kernel was made for, compact and aligned to 64 bytes. Throws runtime::Error if they are not.
  void run(runtime::ffi::Tensor* const* tensors, int32_t count) const;

  // The same for memory that is as it must be.
  void run(void* const* data) const;

  const tvmops_kernel* source;
  runtime::PackedFunction function;
  std::vector<Argument> arguments;
  int64_t outputs;  // of the arguments, the last ones
};

}  // namespace tvmops::drivers

#endif  // TVMOPS_DRIVERS_WHOLE_H_
