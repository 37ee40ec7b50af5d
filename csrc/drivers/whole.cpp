#include "drivers/whole.h"

#include <array>

#include "drivers/binding.h"

namespace tvmops::drivers {

namespace {

constexpr int64_t kMostArguments = 16, kMostDims = 8;

// As codegen/spaces/whole.py numbers them.
constexpr runtime::ffi::DataType kDtypes[] = {{2, 32, 1}, {4, 16, 1}, {2, 16, 1}, {2, 64, 1},
                                              {0, 64, 1}, {0, 32, 1}, {0, 8, 1},  {1, 8, 1}};

}  // namespace

WholeKernel::WholeKernel(const tvmops_kernel& kernel)
    : source(&kernel),
      function(leaf<int(void*, const runtime::ffi::Any*, int32_t, runtime::ffi::Any*)>(kernel, "main")),
      arguments(static_cast<size_t>(param(kernel, "arguments", 1, kMostArguments))),
      outputs(param(kernel, "outputs", 1, static_cast<int64_t>(arguments.size()))) {
  for (size_t i = 0; i < arguments.size(); i++) {
    const std::string number = std::to_string(i);
    arguments[i].dtype = kDtypes[param(kernel, "dtype" + number, 0, static_cast<int64_t>(std::size(kDtypes)) - 1)];
    arguments[i].shape.resize(static_cast<size_t>(param(kernel, "ndim" + number, 0, kMostDims)));
    for (size_t d = 0; d < arguments[i].shape.size(); d++)
      arguments[i].shape[d] = param(kernel, "size" + number + "_" + std::to_string(d), 0, INT64_MAX);
  }
  check_plan(kernel, 1);
}

void WholeKernel::run(runtime::ffi::Tensor* const* tensors, int32_t count) const {
  if (count != static_cast<int32_t>(arguments.size()))
    throw runtime::Error(describe(*source) + " takes " + std::to_string(arguments.size()) + " tensors, not " +
                         std::to_string(count));
  runtime::call_packed(source->name, function, tensors, count);
}

void WholeKernel::run(void* const* data) const {
  std::array<runtime::ffi::Tensor, kMostArguments> tensors;
  std::array<runtime::ffi::Tensor*, kMostArguments> pointers;
  for (size_t i = 0; i < arguments.size(); i++) {
    const Argument& a = arguments[i];
    tensors[i] = {data[i], {1, 0}, static_cast<int32_t>(a.shape.size()), a.dtype, const_cast<int64_t*>(a.shape.data()),
                  nullptr, 0};
    pointers[i] = &tensors[i];
  }
  run(pointers.data(), static_cast<int32_t>(arguments.size()));
}

}  // namespace tvmops::drivers
