#include "python/fast_calls.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include "ops/common.h"
#include "ops/linear.h"
#include "ops/matmul.h"

namespace tvmops::python {

namespace {

using at::Tensor;

enum Operator { kMatmul, kMm, kBmm, kMv, kLinear, kOperators };
// torch.ops.tvmops.<name>, which serve every call that is not plain: modes, subclasses, gradients.
PyObject* operators[kOperators] = {};

// A tensor that a kernel may read without asking anyone.
bool plain(PyObject* object) { return THPVariable_CheckExact(object) && ops::is_plain(THPVariable_Unpack(object)); }

bool intercepted() { return at::impl::torch_function_mode_enabled() || ops::in_dispatch_mode(); }

PyObject* through_dispatcher(Operator op, PyObject* const* args, Py_ssize_t count) {
  if (!operators[op]) {
    PyErr_SetString(PyExc_RuntimeError, "tvmops is not initialised: import tvmops, not tvmops._C");
    return nullptr;
  }
  return PyObject_Vectorcall(operators[op], args, count, nullptr);
}

// The GIL is let go of unless the work is over sooner than that takes.
template <class Body>
Tensor unlocked(int64_t work, Body&& body) {
  if (work < 100'000) return body();
  const pybind11::gil_scoped_release release;
  return body();
}

template <Operator op, Tensor (*function)(const Tensor&, const Tensor&)>
PyObject* binary(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 2 || !plain(args[0]) || !plain(args[1]) || intercepted()) return through_dispatcher(op, args, count);
  const Tensor &a = THPVariable_Unpack(args[0]), &b = THPVariable_Unpack(args[1]);
  const int64_t columns = b.dim() > 1 ? b.size(-1) : 1;
  return THPVariable_Wrap(unlocked(a.numel() * columns, [&] { return function(a, b); }));
  END_HANDLE_TH_ERRORS
}

// linear(input, weight, bias, activation, residual, prepack), all six.
PyObject* linear(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const auto absent_or_plain = [](PyObject* object) { return object == Py_None || plain(object); };
  if (count != 6 || !plain(args[0]) || !plain(args[1]) || !absent_or_plain(args[2]) || !absent_or_plain(args[4]) ||
      !(args[3] == Py_None || PyUnicode_Check(args[3])) || intercepted())
    return through_dispatcher(kLinear, args, count);
  const auto optional = [](PyObject* object) {
    return object == Py_None ? ops::OptionalTensor() : ops::OptionalTensor(THPVariable_Unpack(object));
  };
  const Tensor &input = THPVariable_Unpack(args[0]), &weight = THPVariable_Unpack(args[1]);
  const ops::OptionalTensor bias = optional(args[2]), residual = optional(args[4]);
  std::optional<c10::string_view> activation;
  if (args[3] != Py_None) {
    Py_ssize_t length;
    const char* text = PyUnicode_AsUTF8AndSize(args[3], &length);
    if (!text) return nullptr;
    activation = c10::string_view(text, length);
  }
  const bool prepack = PyObject_IsTrue(args[5]) == 1;
  return THPVariable_Wrap(unlocked(input.numel() * (weight.dim() > 0 ? weight.size(0) : 1), [&] {
    return ops::linear_cpu(input, weight, bias, activation, residual, prepack);
  }));
  END_HANDLE_TH_ERRORS
}

// Any operator of torch.ops, with arguments as for it: unlike a call of torch.ops, warnings become Python's.
PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count, PyObject* names) {
  HANDLE_TH_ERRORS
  if (count < 1) {
    PyErr_SetString(PyExc_TypeError, "call takes an operator and its arguments");
    return nullptr;
  }
  return PyObject_Vectorcall(args[0], args + 1, count - 1, names);
  END_HANDLE_TH_ERRORS
}

PyObject* set_operators(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != kOperators) {
    PyErr_Format(PyExc_TypeError, "set_operators takes %d operators, got %zd", static_cast<int>(kOperators), count);
    return nullptr;
  }
  for (int i = 0; i < kOperators; i++) {
    Py_INCREF(args[i]);
    Py_XSETREF(operators[i], args[i]);
  }
  Py_RETURN_NONE;
}

#define TVMOPS_FUNCTION(name, function, doc) \
  {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL, doc}

PyMethodDef functions[] = {
    TVMOPS_FUNCTION("matmul", (&binary<kMatmul, ops::matmul_plain>), "matmul(input, other)"),
    TVMOPS_FUNCTION("mm", (&binary<kMm, ops::mm_cpu>), "mm(input, mat2)"),
    TVMOPS_FUNCTION("bmm", (&binary<kBmm, ops::bmm_cpu>), "bmm(input, mat2)"),
    TVMOPS_FUNCTION("mv", (&binary<kMv, ops::mv_cpu>), "mv(input, vec)"),
    TVMOPS_FUNCTION("linear", &linear, "linear(input, weight, bias, activation, residual, prepack)"),
    {"call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call)), METH_FASTCALL | METH_KEYWORDS,
     "call(operator, *args, **kwargs)"},
    TVMOPS_FUNCTION("set_operators", &set_operators, "set_operators(matmul, mm, bmm, mv, linear)"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void add_fast_calls(PyObject* module) { PyModule_AddFunctions(module, functions); }

}  // namespace tvmops::python
