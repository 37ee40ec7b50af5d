#include "python/bound_kernel.h"

#include <ATen/ATen.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>

#include <memory>
#include <string>
#include <vector>

#include "drivers/whole.h"
#include "ops/common.h"
#include "runtime/error.h"
#include "runtime/registry.h"
#include "runtime/scratch.h"
#include "runtime/shim.h"

namespace py = pybind11;

namespace tvmops::python {

namespace {

using runtime::Error;
namespace ffi = runtime::ffi;

ffi::DataType dtype_of(const at::Tensor& t) {
  const auto bits = static_cast<uint8_t>(8 * t.element_size());
  if (t.scalar_type() == at::kBFloat16) return {4, bits, 1};
  if (t.is_floating_point()) return {2, bits, 1};
  if (t.scalar_type() == at::kByte) return {1, bits, 1};
  if (!at::isIntegralType(t.scalar_type(), /*includeBool=*/false))
    throw Error(std::string("a kernel can't be bound to a tensor of dtype ") + c10::toString(t.scalar_type()));
  return {0, bits, 1};
}

// A whole kernel and the tensors that it is called with, so that a call costs next to nothing.
class BoundKernel {
 public:
  BoundKernel(const std::string& name, const std::vector<py::handle>& tensors) : kernel_(find(name)) {
    for (const py::handle& object : tensors) {
      if (!THPVariable_Check(object.ptr())) throw py::type_error("a kernel is bound to tensors");
      const at::Tensor& t = THPVariable_Unpack(object.ptr());
      if (!t.device().is_cpu() || t.layout() != at::kStrided || !t.is_contiguous())
        throw Error("kernel " + name + " can be bound to contiguous CPU tensors alone");
      if (reinterpret_cast<uintptr_t>(t.data_ptr()) % runtime::kAlignment != 0)
        throw Error("kernel " + name + " needs tensors aligned to " + std::to_string(runtime::kAlignment) + " bytes");
      kept_.push_back(t);
      shapes_.push_back(t.sizes().vec());
    }
    for (size_t i = 0; i < kept_.size(); i++) {
      const at::Tensor& t = kept_[i];
      structs_.push_back(
          {t.data_ptr(), {1, 0}, static_cast<int32_t>(t.dim()), dtype_of(t), shapes_[i].data(), nullptr, 0});
    }
    for (auto& one : structs_) pointers_.push_back(&one);
  }

  void operator()() {
    const py::gil_scoped_release release;
    kernel_.run(pointers_.data(), static_cast<int32_t>(pointers_.size()));
  }

 private:
  drivers::WholeKernel find(const std::string& name) {
    snapshot_ = runtime::Registry::global().snapshot();
    const auto* kernel = snapshot_->find(name);
    if (!kernel) throw Error("no kernel is called '" + name + "'");
    if (kernel->gpu) throw Error("kernel " + name + " is for a GPU");
    if (!kernel->usable) throw Error("kernel " + name + " does not run on this CPU");
    return drivers::WholeKernel(*kernel->table);
  }

  std::shared_ptr<const runtime::Snapshot> snapshot_;  // keeps the pack mapped
  drivers::WholeKernel kernel_;
  std::vector<at::Tensor> kept_;
  std::vector<std::vector<int64_t>> shapes_;
  std::vector<ffi::Tensor> structs_;
  std::vector<ffi::Tensor*> pointers_;
};

}  // namespace

void add_bound_kernel(py::module_& m) {
  runtime::set_parallel_for(&ops::kAtenParallel);
  py::class_<BoundKernel>(m, "BoundKernel")
      .def(py::init<const std::string&, const std::vector<py::handle>&>(), py::arg("name"), py::arg("tensors"))
      .def("__call__", &BoundKernel::operator());
}

}  // namespace tvmops::python
