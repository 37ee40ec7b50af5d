// The operators as CPython functions: straight to the kernel for plain tensors, else to the dispatcher.
#ifndef TVMOPS_PYTHON_FAST_CALLS_H_
#define TVMOPS_PYTHON_FAST_CALLS_H_

#include <Python.h>

namespace tvmops::python {

// Adds matmul, mm, bmm, mv, linear and set_operators to the module.
void add_fast_calls(PyObject* module);

}  // namespace tvmops::python

#endif  // TVMOPS_PYTHON_FAST_CALLS_H_
