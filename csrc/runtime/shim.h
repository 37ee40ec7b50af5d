// What a whole kernel (an object made by TVM with its own calling convention) needs: the symbols that it refers to, and
// a way to call it. The symbols are hidden: an imported tvm keeps its own, whichever of the two is loaded first.
#ifndef TVMOPS_RUNTIME_SHIM_H_
#define TVMOPS_RUNTIME_SHIM_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "runtime/abi.h"
#include "runtime/parallel.h"

namespace tvmops::runtime {

// The structs of the calling convention, laid out as in their sources.
namespace ffi {

// DLDevice, DLDataType and DLTensor of dlpack.h (DLPack 1).
struct Device {
  int32_t type;  // 1: CPU
  int32_t id;
};
struct DataType {
  uint8_t code;  // 0: int, 1: uint, 2: float, 4: bfloat16
  uint8_t bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: compact, row-major
  uint64_t byte_offset;
};
static_assert(sizeof(Tensor) == 48, "DLTensor of dlpack.h");

// TVMFFIAny of tvm/ffi/c_api.h.
struct Any {
  int32_t type_index;
  uint32_t zero_padding;
  union {
    int64_t v_int64;
    double v_float64;
    void* v_ptr;
  };
};
static_assert(sizeof(Any) == 16, "TVMFFIAny of tvm/ffi/c_api.h");

constexpr int32_t kTensorPointer = 7;  // kTVMFFIDLTensorPtr

}  // namespace ffi

// TVMFFISafeCallType of tvm/ffi/c_api.h, the type of every __tvm_ffi_NAME: 0, or not 0 and the error set.
using PackedFunction = int (*)(void* self, const ffi::Any* args, int32_t num_args, ffi::Any* result);

// A float32, compact, row-major tensor on the CPU; `shape` has `ndim` items and must live as long as the tensor.
ffi::Tensor float32_tensor(void* data, int64_t* shape, int32_t ndim);

// Calls a whole kernel. Throws Error, naming the kernel and giving its message, if it reports one.
void call_packed(const std::string& name, PackedFunction function, ffi::Tensor* const* tensors, int32_t count);
void call_packed(const std::string& name, PackedFunction function, std::initializer_list<ffi::Tensor*> tensors);

// The same for the whole kernels of packs, which are handed these functions when they are loaded.
const tvmops_services& services();

// What whole kernels run their parallel loops with; null (as at the start) means in the calling thread. The struct must
// live on. Set it before the first call.
void set_parallel_for(const ParallelFor* parallel_for);

// The last error that a whole kernel reported in this thread, "KIND: message"; empty if none since clear_last_error().
const std::string& last_error();
void clear_last_error();

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_SHIM_H_
