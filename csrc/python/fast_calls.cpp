#include "python/fast_calls.h"

#include "ops/linear.h"
#include "ops/matmul.h"
#include "python/fast_call.h"

namespace tvmops::python {

namespace {

using at::Tensor;

Operator matmul_op("matmul"), mm_op("mm"), bmm_op("bmm"), mv_op("mv"), linear_op("linear");

template <Operator& op, Tensor (*function)(const Tensor&, const Tensor&)>
PyObject* binary(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 2 || !plain(args[0]) || !plain(args[1]) || intercepted()) return op(args, count);
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
    return linear_op(args, count);
  const Tensor &input = THPVariable_Unpack(args[0]), &weight = THPVariable_Unpack(args[1]);
  const ops::OptionalTensor bias = optional_tensor(args[2]), residual = optional_tensor(args[4]);
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

// set_operators(torch.ops.tvmops): every operator that a fast call may hand over to.
PyObject* set_operators(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 1) {
    PyErr_Format(PyExc_TypeError, "set_operators takes 1 argument, got %zd", count);
    return nullptr;
  }
  for (Operator* op : Operator::all()) {
    PyObject* const found = PyObject_GetAttrString(args[0], op->name().c_str());
    if (!found) return nullptr;
    op->set(found);
    Py_DECREF(found);
  }
  Py_RETURN_NONE;
}

FastCalls calls({
    fast_function("matmul", &binary<matmul_op, ops::matmul_plain>, "matmul(input, other)"),
    fast_function("mm", &binary<mm_op, ops::mm_cpu>, "mm(input, mat2)"),
    fast_function("bmm", &binary<bmm_op, ops::bmm_cpu>, "bmm(input, mat2)"),
    fast_function("mv", &binary<mv_op, ops::mv_cpu>, "mv(input, vec)"),
    fast_function("linear", &linear, "linear(input, weight, bias, activation, residual, prepack)"),
    {"call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call)), METH_FASTCALL | METH_KEYWORDS,
     "call(operator, *args, **kwargs)"},
    fast_function("set_operators", &set_operators, "set_operators(torch.ops.tvmops)"),
});

}  // namespace

void add_fast_calls(PyObject* module) {
  for (FastCalls* table : FastCalls::all()) PyModule_AddFunctions(module, table->functions());
}

}  // namespace tvmops::python
