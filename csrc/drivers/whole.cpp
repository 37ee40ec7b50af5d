#include "drivers/whole.h"

#include "drivers/binding.h"

namespace tvmops::drivers {

namespace {
constexpr int64_t kMostArguments = 16;
}

WholeKernel::WholeKernel(const tvmops_kernel& kernel)
    : source(&kernel),
      function(leaf<int(void*, const runtime::ffi::Any*, int32_t, runtime::ffi::Any*)>(kernel, "main")),
      arguments(static_cast<int32_t>(param(kernel, "arguments", 1, kMostArguments))),
      outputs(static_cast<int32_t>(param(kernel, "outputs", 1, kMostArguments))) {
  check_plan(kernel, 1);
}

void WholeKernel::run(runtime::ffi::Tensor* const* tensors, int32_t count) const {
  if (count != arguments)
    throw runtime::Error(describe(*source) + " takes " + std::to_string(arguments) + " tensors, not " +
                         std::to_string(count));
  runtime::call_packed(source->name, function, tensors, count);
}

}  // namespace tvmops::drivers
