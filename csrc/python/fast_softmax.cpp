#include "ops/cross_entropy.h"
#include "ops/logsumexp.h"
#include "ops/softmax.h"
#include "python/fast_call.h"

namespace tvmops::python {

namespace {

using at::Tensor;

Operator softmax_op("softmax"), log_softmax_op("log_softmax"), logsumexp_op("logsumexp"),
    cross_entropy_op("cross_entropy");

// A call that costs so many operations an element.
constexpr int64_t kCost = 8;

bool is_int(PyObject* object) { return PyLong_CheckExact(object); }

// A dense int64 tensor without autograd, subclass or transform.
bool plain_classes(PyObject* object) {
  return THPVariable_CheckExact(object) && ops::is_plain_long(THPVariable_Unpack(object));
}

// NAME(input, dim, dtype)
template <Operator& op, Tensor (*function)(const Tensor&, int64_t, std::optional<at::ScalarType>)>
PyObject* along(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 3 || !plain(args[0]) || !is_int(args[1]) || args[2] != Py_None || intercepted()) return op(args, count);
  const Tensor& x = THPVariable_Unpack(args[0]);
  const int64_t dim = PyLong_AsLongLong(args[1]);
  if (dim == -1 && PyErr_Occurred()) return nullptr;
  return THPVariable_Wrap(unlocked(x.numel() * kCost, [&] { return function(x, dim, std::nullopt); }));
  END_HANDLE_TH_ERRORS
}

// logsumexp(input, dim, keepdim)
PyObject* logsumexp(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 3 || !plain(args[0]) || !is_int(args[1]) || !PyBool_Check(args[2]) || intercepted())
    return logsumexp_op(args, count);
  const Tensor& x = THPVariable_Unpack(args[0]);
  const int64_t dim = PyLong_AsLongLong(args[1]);
  if (dim == -1 && PyErr_Occurred()) return nullptr;
  const bool keepdim = args[2] == Py_True;
  return THPVariable_Wrap(unlocked(x.numel() * kCost, [&] { return ops::logsumexp_cpu(x, dim, keepdim); }));
  END_HANDLE_TH_ERRORS
}

// cross_entropy(input, target, weight, reduction, ignore_index, label_smoothing)
PyObject* cross_entropy(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 6 || !plain(args[0]) || !plain_classes(args[1]) || !(args[2] == Py_None || plain(args[2])) ||
      !is_int(args[3]) || !is_int(args[4]) || !PyFloat_Check(args[5]) || intercepted())
    return cross_entropy_op(args, count);
  const Tensor &x = THPVariable_Unpack(args[0]), &target = THPVariable_Unpack(args[1]);
  const std::optional<Tensor> weight = optional_tensor(args[2]);
  const int64_t reduction = PyLong_AsLongLong(args[3]), ignored = PyLong_AsLongLong(args[4]);
  if (PyErr_Occurred()) return nullptr;
  const double smoothing = PyFloat_AsDouble(args[5]);
  return THPVariable_Wrap(unlocked(
      x.numel() * kCost, [&] { return ops::cross_entropy_cpu(x, target, weight, reduction, ignored, smoothing); }));
  END_HANDLE_TH_ERRORS
}

FastCalls calls({
    fast_function("softmax", &along<softmax_op, ops::softmax_cpu>, "softmax(input, dim, dtype)"),
    fast_function("log_softmax", &along<log_softmax_op, ops::log_softmax_cpu>, "log_softmax(input, dim, dtype)"),
    fast_function("logsumexp", &logsumexp, "logsumexp(input, dim, keepdim)"),
    fast_function("cross_entropy", &cross_entropy,
                  "cross_entropy(input, target, weight, reduction, ignore_index, label_smoothing)"),
});

}  // namespace

}  // namespace tvmops::python
