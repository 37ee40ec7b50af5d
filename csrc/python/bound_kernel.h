// tvmops._C.BoundKernel: a whole kernel bound to tensors, for those who time it.
#ifndef TVMOPS_PYTHON_BOUND_KERNEL_H_
#define TVMOPS_PYTHON_BOUND_KERNEL_H_

#include <pybind11/pybind11.h>

namespace tvmops::python {

// Adds the class to the module, and gives whole kernels ATen's threads.
void add_bound_kernel(pybind11::module_& m);

}  // namespace tvmops::python

#endif  // TVMOPS_PYTHON_BOUND_KERNEL_H_
