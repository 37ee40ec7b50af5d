#include <deque>

#include "ops/pointwise.h"
#include "python/fast_call.h"

namespace tvmops::python {

namespace {

using ops::kPointwise;
using ops::kPointwiseOps;

std::deque<Operator>& operators() {
  static std::deque<Operator> all;
  return all;
}

// NAME(input, *params), all of them floats or ints.
template <size_t op>
PyObject* pointwise(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  constexpr Py_ssize_t expected = 1 + kPointwise[op].n_params;
  ops::Params params = {};
  bool fits = count == expected && plain(args[0]) && !intercepted();
  for (Py_ssize_t i = 1; fits && i < expected; i++) {
    fits = PyFloat_Check(args[i]) || PyLong_Check(args[i]);
    if (fits) params[i - 1] = PyFloat_AsDouble(args[i]);
    if (fits && params[i - 1] == -1.0 && PyErr_Occurred()) return nullptr;
  }
  if (!fits) return operators()[op](args, count);
  const at::Tensor& x = THPVariable_Unpack(args[0]);
  return THPVariable_Wrap(unlocked(x.numel() * 4, [&] { return ops::pointwise_cpu(op, x, params); }));
  END_HANDLE_TH_ERRORS
}

template <size_t... op>
std::vector<PyMethodDef> all(std::index_sequence<op...>) {
  for (const auto& row : kPointwise) operators().emplace_back(row.name);
  return {fast_function(kPointwise[op].name, &pointwise<op>, "(input, *params)")...};
}

FastCalls calls(all(std::make_index_sequence<kPointwiseOps>{}));

}  // namespace

}  // namespace tvmops::python
