// The operators as CPython functions, see fast_call.h.
#ifndef TVMOPS_PYTHON_FAST_CALLS_H_
#define TVMOPS_PYTHON_FAST_CALLS_H_

#include <Python.h>

namespace tvmops::python {

// Adds those of every FastCalls to the module.
void add_fast_calls(PyObject* module);

}  // namespace tvmops::python

#endif  // TVMOPS_PYTHON_FAST_CALLS_H_
