#include "ops/group_norm.h"
#include "ops/normalization.h"
#include "python/fast_call.h"

namespace tvmops::python {

namespace {

using ops::NormCall;
using ops::OptionalTensor;

Operator layer_norm_op("layer_norm"), rms_norm_op("rms_norm"), add_layer_norm_op("add_layer_norm"),
    add_rms_norm_op("add_rms_norm"), group_norm_op("group_norm");

// A tuple, list or torch.Size of few ints.
class Shape {
 public:
  static constexpr Py_ssize_t kMost = 8;

  explicit Shape(PyObject* object) {
    if (!PyTuple_Check(object) && !PyList_Check(object)) return;
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
    if (size > kMost) return;
    for (Py_ssize_t i = 0; i < size; i++) {
      PyObject* const item = PySequence_Fast_GET_ITEM(object, i);
      if (!PyLong_CheckExact(item)) return;
      sizes_[i] = PyLong_AsLongLong(item);
      if (sizes_[i] == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        return;
      }
    }
    size_ = size;
  }
  explicit operator bool() const { return size_ >= 0; }
  at::IntArrayRef sizes() const { return {sizes_, static_cast<size_t>(size_)}; }

 private:
  int64_t sizes_[kMost] = {};
  Py_ssize_t size_ = -1;
};

bool plain_or_none(PyObject* object) { return object == Py_None || plain(object); }

bool number(PyObject* object, std::optional<double>& value) {
  if (!PyFloat_Check(object)) return false;
  value = PyFloat_AS_DOUBLE(object);
  return true;
}

// NAME(input, [residual,] normalized_shape, weight, [bias,] eps)
template <bool rms, bool add>
PyObject* norm(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  constexpr Py_ssize_t kShape = add ? 2 : 1, kEps = kShape + (rms ? 2 : 3);
  const auto& op = add ? (rms ? add_rms_norm_op : add_layer_norm_op) : (rms ? rms_norm_op : layer_norm_op);
  std::optional<double> eps;
  if (count != kEps + 1 || !plain(args[0]) || !plain_or_none(args[kShape + 1]) || intercepted() ||
      (add && !plain(args[1])) || (!rms && !plain_or_none(args[kShape + 2])) ||
      !(number(args[kEps], eps) || (rms && args[kEps] == Py_None)))
    return op(args, count);
  const Shape shape(args[kShape]);
  if (!shape) return op(args, count);
  const at::Tensor& x = THPVariable_Unpack(args[0]);
  const OptionalTensor weight = optional_tensor(args[kShape + 1]);
  const OptionalTensor residual = add ? optional_tensor(args[1]) : std::nullopt;
  const OptionalTensor bias = rms ? std::nullopt : optional_tensor(args[kShape + 2]);
  const auto out = unlocked(
      x.numel() * 4, [&] { return ops::normalise_cpu({rms, x, residual, weight, bias, eps}, shape.sizes(), false); });
  if (!add) return THPVariable_Wrap(out.result);
  return Py_BuildValue("(NN)", THPVariable_Wrap(out.result), THPVariable_Wrap(out.sum));
  END_HANDLE_TH_ERRORS
}

// group_norm(input, num_groups, weight, bias, eps)
PyObject* group_norm(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  std::optional<double> eps;
  if (count != 5 || !plain(args[0]) || !PyLong_CheckExact(args[1]) || !plain_or_none(args[2]) ||
      !plain_or_none(args[3]) || !number(args[4], eps) || intercepted())
    return group_norm_op(args, count);
  const int64_t groups = PyLong_AsLongLong(args[1]);
  if (groups == -1 && PyErr_Occurred()) return nullptr;
  const at::Tensor& x = THPVariable_Unpack(args[0]);
  const OptionalTensor weight = optional_tensor(args[2]), bias = optional_tensor(args[3]);
  return THPVariable_Wrap(unlocked(x.numel() * 4, [&] { return ops::group_norm_cpu(x, groups, weight, bias, *eps); }));
  END_HANDLE_TH_ERRORS
}

FastCalls calls({
    fast_function("layer_norm", &norm<false, false>, "(input, normalized_shape, weight, bias, eps)"),
    fast_function("group_norm", &group_norm, "(input, num_groups, weight, bias, eps)"),
    fast_function("rms_norm", &norm<true, false>, "(input, normalized_shape, weight, eps)"),
    fast_function("add_layer_norm", &norm<false, true>, "(input, residual, normalized_shape, weight, bias, eps)"),
    fast_function("add_rms_norm", &norm<true, true>, "(input, residual, normalized_shape, weight, eps)"),
});

}  // namespace

}  // namespace tvmops::python
