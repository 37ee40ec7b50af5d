#include "ops/fused.h"
#include "python/fast_call.h"

namespace tvmops::python {

namespace {

using at::Tensor;
using ops::OptionalName;

Operator bias_op("bias_activation"), add_op("add_activation"), gated_op("gated_activation"), halves_op("gated_halves"),
    star_relu_op("star_relu");

bool absent_or_plain(PyObject* object) { return object == Py_None || plain(object); }
bool is_name(PyObject* object) { return object == Py_None || PyUnicode_Check(object); }

// Throws what is set in Python for a string that is no UTF-8.
OptionalName name_of(PyObject* object) {
  if (object == Py_None) return std::nullopt;
  Py_ssize_t length;
  const char* text = PyUnicode_AsUTF8AndSize(object, &length);
  if (!text) throw python_error();
  return c10::string_view(text, length);
}

constexpr int64_t kCost = 4;  // of an element, as a matrix product counts

// bias_activation(input, bias, activation, residual), all four.
PyObject* bias_activation(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 4 || !plain(args[0]) || !absent_or_plain(args[1]) || !is_name(args[2]) || !absent_or_plain(args[3]) ||
      intercepted())
    return bias_op(args, count);
  const Tensor& x = THPVariable_Unpack(args[0]);
  const auto bias = optional_tensor(args[1]), residual = optional_tensor(args[3]);
  const OptionalName activation = name_of(args[2]);
  return THPVariable_Wrap(
      unlocked(x.numel() * kCost, [&] { return ops::bias_activation_cpu(x, bias, activation, residual); }));
  END_HANDLE_TH_ERRORS
}

// NAME(a, b, activation), all three.
template <Operator& op, Tensor (*function)(const Tensor&, const Tensor&, OptionalName)>
PyObject* binary(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 3 || !plain(args[0]) || !plain(args[1]) || !is_name(args[2]) || intercepted()) return op(args, count);
  const Tensor &a = THPVariable_Unpack(args[0]), &b = THPVariable_Unpack(args[1]);
  const OptionalName activation = name_of(args[2]);
  return THPVariable_Wrap(unlocked(a.numel() * kCost, [&] { return function(a, b, activation); }));
  END_HANDLE_TH_ERRORS
}

// gated_halves(input, activation), both.
PyObject* gated_halves(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 2 || !plain(args[0]) || !is_name(args[1]) || intercepted()) return halves_op(args, count);
  const Tensor& x = THPVariable_Unpack(args[0]);
  const OptionalName activation = name_of(args[1]);
  return THPVariable_Wrap(unlocked(x.numel() * kCost, [&] { return ops::gated_halves_cpu(x, activation); }));
  END_HANDLE_TH_ERRORS
}

// star_relu(input, scale, shift), all three.
PyObject* star_relu(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 3 || !plain(args[0]) || !plain(args[1]) || !plain(args[2]) || intercepted())
    return star_relu_op(args, count);
  const Tensor &x = THPVariable_Unpack(args[0]), &scale = THPVariable_Unpack(args[1]),
               &shift = THPVariable_Unpack(args[2]);
  return THPVariable_Wrap(unlocked(x.numel() * kCost, [&] { return ops::star_relu_cpu(x, scale, shift); }));
  END_HANDLE_TH_ERRORS
}

FastCalls calls({
    fast_function("bias_activation", &bias_activation, "bias_activation(input, bias, activation, residual)"),
    fast_function("add_activation", &binary<add_op, ops::add_activation_cpu>,
                  "add_activation(input, other, activation)"),
    fast_function("gated_activation", &binary<gated_op, ops::gated_activation_cpu>,
                  "gated_activation(gate, up, activation)"),
    fast_function("gated_halves", &gated_halves, "gated_halves(input, activation)"),
    fast_function("star_relu", &star_relu, "star_relu(input, scale, shift)"),
});

}  // namespace

}  // namespace tvmops::python
