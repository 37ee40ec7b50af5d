// Operators as CPython functions: straight to the kernel for plain tensors, else through torch.ops. A file of them ends
// in a static FastCalls.
#ifndef TVMOPS_PYTHON_FAST_CALL_H_
#define TVMOPS_PYTHON_FAST_CALL_H_

#include <ATen/PythonTorchFunctionTLS.h>
#include <Python.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <string>
#include <vector>

#include "ops/common.h"

namespace tvmops::python {

// torch.ops.tvmops.<name>, which serves every call that is not plain: modes, subclasses, gradients. One static object
// an operator; set_operators (in Python: _C.set_operators) fills them.
class Operator {
 public:
  explicit Operator(std::string name) : name_(std::move(name)) { all().push_back(this); }
  Operator(const Operator&) = delete;
  Operator& operator=(const Operator&) = delete;

  const std::string& name() const { return name_; }
  void set(PyObject* op) {
    Py_INCREF(op);
    Py_XSETREF(op_, op);
  }

  PyObject* operator()(PyObject* const* args, Py_ssize_t count) const {
    if (!op_) {
      PyErr_SetString(PyExc_RuntimeError, "tvmops is not initialised: import tvmops, not tvmops._C");
      return nullptr;
    }
    return PyObject_Vectorcall(op_, args, count, nullptr);
  }

  static std::vector<Operator*>& all() {
    static std::vector<Operator*> operators;
    return operators;
  }

 private:
  const std::string name_;
  PyObject* op_ = nullptr;
};

// Functions for the module: found at its initialisation.
class FastCalls {
 public:
  explicit FastCalls(std::vector<PyMethodDef> functions) : functions_(std::move(functions)) {
    functions_.push_back({nullptr, nullptr, 0, nullptr});
    all().push_back(this);
  }
  PyMethodDef* functions() { return functions_.data(); }

  static std::vector<FastCalls*>& all() {
    static std::vector<FastCalls*> tables;
    return tables;
  }

 private:
  std::vector<PyMethodDef> functions_;
};

using FastFunction = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);

inline PyMethodDef fast_function(const char* name, FastFunction function, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, doc};
}

// A tensor that a kernel may read without asking anyone.
inline bool plain(PyObject* object) {
  return THPVariable_CheckExact(object) && ops::is_plain(THPVariable_Unpack(object));
}

inline bool intercepted() { return at::impl::torch_function_mode_enabled() || ops::in_dispatch_mode(); }

inline std::optional<at::Tensor> optional_tensor(PyObject* object) {
  return object == Py_None ? std::optional<at::Tensor>() : std::optional<at::Tensor>(THPVariable_Unpack(object));
}

// The GIL is let go of unless the work is over sooner than that takes.
template <class Body>
auto unlocked(int64_t work, Body&& body) {
  if (work < 100'000) return body();
  const pybind11::gil_scoped_release release;
  return body();
}

}  // namespace tvmops::python

#endif  // TVMOPS_PYTHON_FAST_CALL_H_
