// tvmops._C: packs, choice and limits for Python, and the operators without the dispatcher for plain tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda/device.h"
#include "cuda/plan.h"
#include "cuda/reduce.h"
#include "drivers/gemm.h"
#include "ops/choice.h"
#include "ops/packed_weights.h"
#include "python/bound_kernel.h"
#include "python/fast_calls.h"
#include "runtime/cpu_features.h"
#include "runtime/error.h"
#include "runtime/limits.h"
#include "runtime/pack.h"
#include "runtime/registry.h"
#include "runtime/scratch.h"

namespace py = pybind11;
using namespace tvmops;

namespace {

// Of a workload's key; of all where it is empty.
py::list list_kernels(const std::string& workload) {
  py::list all;
  const auto snapshot = runtime::Registry::global().snapshot();
  for (const auto& kernel : snapshot->kernels()) {
    if (!workload.empty() && workload != kernel.table->workload) continue;
    py::dict entry;
    entry["name"] = kernel.table->name;
    entry["op"] = kernel.table->op;
    entry["workload"] = kernel.table->workload;
    entry["target"] = kernel.table->target;
    entry["driver"] = kernel.table->driver;
    entry["pack"] = kernel.pack->origin;
    entry["gpu"] = kernel.gpu;
    entry["usable"] = kernel.gpu ? cuda::runs_on_known_device(kernel) : kernel.usable;
    entry["shadowed"] = kernel.shadowed;
    entry["serves"] = ops::serves(kernel.table);
    py::dict dims, params;
    for (uint32_t i = 0; i < kernel.table->n_dims; i++) dims[kernel.table->dims[i].name] = kernel.table->dims[i].value;
    entry["dims"] = dims;
    for (uint32_t i = 0; i < kernel.table->n_params; i++)
      params[kernel.table->params[i].name] = kernel.table->params[i].value;
    entry["params"] = params;
    const auto plan = ops::plan_of(kernel.table);
    entry["plan"] = py::bytes(reinterpret_cast<const char*>(plan.data()), plan.size());
    all.append(entry);
  }
  return all;
}

py::list list_packs() {
  py::list all;
  for (const auto& pack : runtime::Registry::global().snapshot()->packs())
    all.append(py::make_tuple(pack->origin, pack->table->manifest));
  return all;
}

py::list take_decisions() {
  py::list all;
  for (const auto& d : ops::stop_recording()) all.append(py::make_tuple(d.op, d.shape, d.kernel, d.route, d.reason));
  return all;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  py::register_exception<runtime::Error>(m, "Error", PyExc_RuntimeError);

  m.def("load_pack", [](const std::string& path) { return runtime::load_pack(path, runtime::Registry::global()); });
  m.def("load_pack_path", [] { return runtime::load_pack_path(runtime::Registry::global()); });
  m.def("kernels", &list_kernels, py::arg("workload") = "");
  m.def("packs", &list_packs);
  m.def("usable_targets", [] { return runtime::Registry::global().usable_targets(); });
  m.def("known_targets", &runtime::known_targets);
  m.def("cpu_model_name", &runtime::cpu_model_name);
  m.def("cpu_features", [] {
    const auto& names = runtime::host_features().names;
    return std::vector<std::string>(names.begin(), names.end());
  });
  m.def("cache_sizes", [] {
    const auto& sizes = runtime::cache_sizes();
    return py::make_tuple(sizes.l1d, sizes.l2, sizes.l3);
  });
  m.def(
      "fma_peak_gflops", [](double seconds, int threads) { return runtime::fma_peak_gflops(seconds, threads); },
      py::arg("seconds"), py::arg("threads") = 1, py::call_guard<py::gil_scoped_release>());

  m.def("global_mode", [] { return static_cast<int>(ops::global_mode()); });
  m.def("set_global_mode", [](int mode) { ops::set_global_mode(ops::Mode(mode)); });
  m.def("current_mode", [] { return static_cast<int>(ops::current_mode()); });
  m.def("set_thread_mode", &ops::set_thread_mode);
  m.def("set_thread_route", &ops::set_thread_route);
  m.def("set_plan", [](const std::string& kernel, const std::string& plan) {
    ops::set_plan(kernel, std::vector<uint8_t>(plan.begin(), plan.end()));
  });
  m.def("plan_bucket", &drivers::plan_bucket);
  m.def("cuda_plan_bounds", [] {
    py::dict all;
    for (const auto& [name, bounds] : cuda::plan_bounds()) all[name.c_str()] = py::tuple(py::cast(bounds));
    return all;
  });
  m.def("cuda_gemm_plan_bucket", &cuda::gemm_plan_bucket);
  m.def("cuda_gemm_plan_size", &cuda::gemm_plan_size);
  m.def("cuda_rows_plan_bucket", &cuda::rows_plan_bucket);
  m.def("cuda_rows_plan_size", &cuda::rows_plan_size);
  m.def("cuda_reduce_sizes", [](const std::array<int64_t, 6>& shape, int64_t outer, int64_t n, int64_t inner) {
    const auto [threads, vector, loads, kept, depth, blocks] = shape;
    return std::to_array(cuda::ReduceSizes({threads, vector, loads, kept, depth, blocks}, outer, n, inner).list);
  });
  m.def("cuda_reduce_plan_bucket", &cuda::reduce_plan_bucket);
  m.def("cuda_reduce_plan_size", &cuda::reduce_plan_size);
  m.def("cuda_scan_plan_bucket", &cuda::scan_plan_bucket);
  m.def("cuda_scan_plan_size", &cuda::scan_plan_size);
  m.def("start_recording", &ops::start_recording);
  m.def("stop_recording", &take_decisions);
  m.def("release_packed_weights", &ops::release_packed_weights, py::arg("all") = false);
  m.def("scratch_bytes", [] { return runtime::AlignedBuffer::held().load(); });
  python::add_fast_calls(m.ptr());
  python::add_bound_kernel(m);
}
