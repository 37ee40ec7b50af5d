#include <array>
#include <deque>

#include "ops/reductions.h"
#include "python/fast_call.h"

namespace tvmops::python {

namespace {

using ops::kReductions;
using ops::Reduction;

std::deque<Operator>& operators() {
  static std::deque<Operator> all;
  return all;
}

// A dim argument: None, an integer, or a tuple or list of few integers. Says no to anything else.
class Dims {
 public:
  bool read(PyObject* object) {
    if (object == Py_None) return true;
    given_ = true;
    if (PyLong_Check(object)) return add(object);
    if (!PyTuple_Check(object) && !PyList_Check(object)) return false;
    for (Py_ssize_t i = 0, n = PySequence_Fast_GET_SIZE(object); i < n; i++) {
      PyObject* const item = PySequence_Fast_GET_ITEM(object, i);
      if (!PyLong_Check(item) || !add(item)) return false;
    }
    return true;
  }
  at::OptionalIntArrayRef get() const {
    if (!given_) return std::nullopt;
    return at::IntArrayRef(dims_.data(), count_);
  }

 private:
  bool add(PyObject* item) {
    int overflow;
    const long long value = PyLong_AsLongLongAndOverflow(item, &overflow);
    if (overflow || count_ == dims_.size() || PyBool_Check(item)) return false;
    dims_[count_++] = value;
    return true;
  }

  std::array<int64_t, 8> dims_;
  size_t count_ = 0;
  bool given_ = false;
};

// NAME(input, dim, keepdim), and for var the correction.
template <int index>
PyObject* reduction(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  constexpr auto op = static_cast<Reduction>(index);
  constexpr Py_ssize_t expected = op == Reduction::kVar ? 4 : 3;
  Dims dims;
  bool fits = count == expected && plain(args[0]) && PyBool_Check(args[2]) && dims.read(args[1]);
  fits = fits && (!ops::is_index(op) || args[1] == Py_None || PyLong_Check(args[1]));
  at::Scalar correction = 1;
  if (fits && expected == 4) {
    fits = PyLong_CheckExact(args[3]) || PyFloat_CheckExact(args[3]);
    if (fits) correction = PyFloat_AsDouble(args[3]);
    if (PyErr_Occurred()) return nullptr;
  }
  if (!fits || intercepted()) return operators()[index](args, count);
  const at::Tensor& x = THPVariable_Unpack(args[0]);
  return THPVariable_Wrap(
      unlocked(x.numel(), [&] { return ops::reduction_cpu(op, x, dims.get(), args[2] == Py_True, correction); }));
  END_HANDLE_TH_ERRORS
}

template <int... op>
std::vector<PyMethodDef> all(std::integer_sequence<int, op...>) {
  for (const char* name : ops::kReductionNames) operators().emplace_back(name);
  return {fast_function(ops::kReductionNames[op], &reduction<op>, "(input, dim, keepdim[, correction])")...};
}

FastCalls calls(all(std::make_integer_sequence<int, kReductions>{}));

}  // namespace

}  // namespace tvmops::python
