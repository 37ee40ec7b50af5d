#include "ops/rotary.h"
#include "python/fast_call.h"

namespace tvmops::python {

namespace {

Operator op("rotary_embedding");

// rotary_embedding(input, cos, sin, interleaved, seq_dim, inverse), all six.
PyObject* rotary_embedding(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 6 || !plain(args[0]) || !plain(args[1]) || !plain(args[2]) || !PyBool_Check(args[3]) ||
      !PyLong_Check(args[4]) || !PyBool_Check(args[5]) || intercepted())
    return op(args, count);
  const at::Tensor &input = THPVariable_Unpack(args[0]), &cos = THPVariable_Unpack(args[1]),
                   &sin = THPVariable_Unpack(args[2]);
  const long seq_dim = PyLong_AsLong(args[4]);
  if (seq_dim == -1 && PyErr_Occurred()) return nullptr;
  const bool interleaved = args[3] == Py_True, inverse = args[5] == Py_True;
  return THPVariable_Wrap(unlocked(
      input.numel(), [&] { return ops::rotary_embedding_cpu(input, cos, sin, interleaved, seq_dim, inverse); }));
  END_HANDLE_TH_ERRORS
}

FastCalls calls({fast_function("rotary_embedding", &rotary_embedding,
                               "rotary_embedding(input, cos, sin, interleaved, seq_dim, inverse)")});

}  // namespace

}  // namespace tvmops::python
