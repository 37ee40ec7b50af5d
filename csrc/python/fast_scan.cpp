#include "ops/scan.h"
#include "python/fast_call.h"

namespace tvmops::python {

namespace {

using Scan = at::Tensor (*)(const at::Tensor&, int64_t, ops::OptionalDtype, bool, bool);

// NAME(input, dim, dtype, exclusive, reverse), all five.
template <Operator& op, Scan scan>
PyObject* fast_scan(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 5 || !plain(args[0]) || !PyLong_CheckExact(args[1]) || args[2] != Py_None || !PyBool_Check(args[3]) ||
      !PyBool_Check(args[4]) || intercepted())
    return op(args, count);
  const int64_t dim = PyLong_AsLongLong(args[1]);
  if (dim == -1 && PyErr_Occurred()) return nullptr;
  const at::Tensor& x = THPVariable_Unpack(args[0]);
  return THPVariable_Wrap(
      unlocked(x.numel() * 4, [&] { return scan(x, dim, std::nullopt, args[3] == Py_True, args[4] == Py_True); }));
  END_HANDLE_TH_ERRORS
}

Operator cumsum_op("cumsum"), cumprod_op("cumprod");

FastCalls calls({
    fast_function("cumsum", &fast_scan<cumsum_op, ops::cumsum_cpu>, "cumsum(input, dim, dtype, exclusive, reverse)"),
    fast_function("cumprod", &fast_scan<cumprod_op, ops::cumprod_cpu>,
                  "cumprod(input, dim, dtype, exclusive, reverse)"),
});

}  // namespace

}  // namespace tvmops::python
