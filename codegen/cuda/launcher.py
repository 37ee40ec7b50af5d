"""The C side of a CUDA source: ``tvmops_launch_{symbol}`` and ``tvmops_workspace_{symbol}``, as abi.h has them."""

from __future__ import annotations

from ..errors import CodegenError
from ..target import GpuTarget
from .expressions import HELPERS
from .host import Argument, Host, Launch, TensorMap
from .kernel import DeviceKernel

# Bytes of shared memory that a block may have without asking for more.
_SHARED_BYTES = 48 << 10

_MAP_TYPES = {
    "float16": "CU_TENSOR_MAP_DATA_TYPE_FLOAT16",
    "bfloat16": "CU_TENSOR_MAP_DATA_TYPE_BFLOAT16",
    "float32": "CU_TENSOR_MAP_DATA_TYPE_FLOAT32",
    "tf32": "CU_TENSOR_MAP_DATA_TYPE_TFLOAT32",  # float32 that is rounded on its way to shared memory
    "int32": "CU_TENSOR_MAP_DATA_TYPE_INT32",
    "uint8": "CU_TENSOR_MAP_DATA_TYPE_UINT8",
}

# 177: TVM's text defines functions that it may not use, and so does the launcher. 20054: its vectors of half have
# constructors, which nvcc leaves out in shared memory, as it should.
_QUIET = """\
#ifdef __CUDACC__
#pragma nv_diag_suppress 177, 20054
#endif
"""

# cuTensorMapEncodeTiled is found in the driver when it is first needed, so that nothing links to the driver, and a
# pack loads where there is none. CUresult and cudaError_t have the same numbers.
_ENCODE = """\
typedef CUresult (*encode_function)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                    const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                    CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static int find_encode(encode_function* encode) {
  static std::atomic<encode_function> known{nullptr};
  *encode = known.load(std::memory_order_relaxed);
  if (*encode) return cudaSuccess;
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status;
  cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status);
  if (error != cudaSuccess) return error;
  if (status != cudaDriverEntryPointSuccess || !found) return cudaErrorInsufficientDriver;
  *encode = (encode_function)found;
  known.store(*encode, std::memory_order_relaxed);
  return cudaSuccess;
}
"""

_WITH_DEVICE = """\
extern "C" int tvmops_launch_{symbol}(const tvmops_launch* call) {{
  int current = 0;
  int error = cudaGetDevice(&current);
  if (!error && current != call->device) error = cudaSetDevice(call->device);
  if (!error) error = launch(call);
  if (error) cudaGetLastError();  /* the next call must not find it */
  if (current != call->device) cudaSetDevice(current);
  return error;
}}
"""


def text(kernel: DeviceKernel, target: GpuTarget, host: Host, device: str) -> str:
    """The whole source: ``device`` is TVM's part of it.

    Raises:
        CodegenError: a tensor map is of a type that there is none for.
    """
    # The headers go first: TVM's text defines macros, such as uint, that they do not survive.
    out = [f"// {kernel.symbol} for {target.name}.", _QUIET, "#include <stdint.h>", "", "#include <atomic>", ""]
    out += ["#include <cuda.h>"] if host.maps else []
    out += ["#include <cuda_runtime.h>", "", '#include "abi.h"', "", device.rstrip(), "", "// The launcher.", HELPERS]
    if host.workspaces:
        out.append(_places(host))
    if host.maps:
        out.append(_ENCODE)
    out.append(_launch(host))
    out.append(_WITH_DEVICE.format(symbol=kernel.symbol))
    if host.workspaces:
        out += [
            f'extern "C" int64_t tvmops_workspace_{kernel.symbol}(const int64_t* sizes) {{',
            f"  int64_t at[{len(host.workspaces) + 1}];",
            "  places(sizes, at);",
            f"  return at[{len(host.workspaces)}];",
            "}",
            "",
        ]
    return "\n".join(out)


def _scalars(host: Host, of_params: bool) -> list[str]:
    out = []
    for name, value in host.scalars.items():
        is_param = value.startswith("params")
        if not is_param or of_params:
            out.append(f"  const {'float' if is_param else 'int64_t'} {name} = {value};\n  (void){name};")
    return out


def _places(host: Host) -> str:
    """A function that says where each workspace begins, and after the last where all end."""
    out = ["static void places(const int64_t* sizes, int64_t* at) {", *_scalars(host, of_params=False), "  at[0] = 0;"]
    for i, (_, size) in enumerate(host.workspaces):
        out.append(f"  at[{i + 1}] = at[{i}] + (larger({size}, 0) + 255) / 256 * 256;")
    return "\n".join([*out, "}", ""])


def _launch(host: Host) -> str:
    out = ["static int launch(const tvmops_launch* call) {"]
    names = {a.kind for one in host.launches for a in one.params}
    if host.scalars:
        out.append("  const int64_t* sizes = call->sizes;")
    if "param" in names:
        out.append("  const float* params = call->params;")
    if "buffer" in names or host.maps:
        out.append("  void* const* buffers = call->buffers;")
    out += _scalars(host, of_params=True)
    if host.workspaces:
        out += [f"  int64_t at[{len(host.workspaces) + 1}];", "  places(sizes, at);"]
        out += [f"  void* {name} = (char*)call->workspace + at[{i}];" for i, (name, _) in enumerate(host.workspaces)]
    if host.maps:
        out += ["  encode_function encode;", "  int status = find_encode(&encode);", "  if (status) return status;"]
    for tensor_map in host.maps:
        out += _encode(tensor_map)
    for one in host.launches:
        out += _one(one)
    return "\n".join([*out, "  return cudaSuccess;", "}", ""])


def _encode(m: TensorMap) -> list[str]:
    if m.dtype not in _MAP_TYPES:
        raise CodegenError(f"no tensor map of {m.dtype}, only of {', '.join(_MAP_TYPES)}")

    def numbers(kind: str, name: str, values: tuple[str, ...]) -> str:
        return f"    const {kind} {name}[] = {{{', '.join(f'({kind})({v})' for v in values)}}};"

    kinds = ("CUtensorMapInterleave", "CUtensorMapSwizzle", "CUtensorMapL2promotion", "CUtensorMapFloatOOBfill")
    modes = ", ".join(f"({kind}){mode}" for kind, mode in zip(kinds, m.modes, strict=True))
    return [
        f"  CUtensorMap {m.name};",
        "  {",
        numbers("cuuint64_t", "extents", m.extents),
        # A matrix of one dimension has no stride; C has no array of no elements.
        numbers("cuuint64_t", "strides", m.strides or ("0",)),
        numbers("cuuint32_t", "box", m.box),
        numbers("cuuint32_t", "steps", m.steps),
        f"    status = encode(&{m.name}, {_MAP_TYPES[m.dtype]}, {len(m.extents)}, {m.buffer}, extents, strides, box,",
        f"                    steps, {modes});",
        "    if (status) return status;",
        "  }",
    ]


def _value(a: Argument) -> str:
    return a.value if a.kind in ("buffer", "workspace", "param") else f"({a.type})({a.value})"


def _one(launch: Launch) -> list[str]:
    """The launch of one device function; one with nothing to do is left out, as CUDA refuses an empty grid."""
    out = [f"  {{  // {launch.name}"]
    for i, a in enumerate(launch.params):
        if a.kind != "map":
            out.append(f"    {a.type} argument_{i} = {_value(a)};")
    args = ", ".join(f"&{a.value}" if a.kind == "map" else f"&argument_{i}" for i, a in enumerate(launch.params))
    out.append(f"    void* arguments[] = {{{args}}};")
    out.append(f"    const int64_t grid[] = {{{', '.join(launch.grid)}}};")
    if not launch.shared_bytes.isdecimal() or int(launch.shared_bytes) > _SHARED_BYTES:
        # The limit is the device's own, and stays as it was set; devices past 63 are asked each time.
        out += [
            "    static std::atomic<uint64_t> raised{0};",
            "    const uint64_t bit = (uint64_t)call->device < 64 ? 1ull << call->device : 0;",
            "    if (!(raised.load(std::memory_order_relaxed) & bit)) {",
            f"      cudaError_t error = cudaFuncSetAttribute((const void*){launch.name},",
            f"          cudaFuncAttributeMaxDynamicSharedMemorySize, (int)({launch.shared_bytes}));",
            "      if (error != cudaSuccess) return error;",
            "      raised.fetch_or(bit, std::memory_order_relaxed);",
            "    }",
        ]
    block = ", ".join(f"(unsigned)({e})" for e in launch.block)
    out += [
        "    if (grid[0] > 0 && grid[1] > 0 && grid[2] > 0) {",
        "      if (grid[0] > INT32_MAX || grid[1] > 65535 || grid[2] > 65535) return cudaErrorInvalidConfiguration;",
        "      const dim3 blocks((unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2]);",
        f"      const dim3 threads({block});",
    ]
    if launch.cluster == ("1", "1", "1"):
        out += [
            f"      cudaError_t error = cudaLaunchKernel((const void*){launch.name}, blocks, threads, arguments,",
            f"                                           {launch.shared_bytes}, (cudaStream_t)call->stream);",
        ]
    else:
        x, y, z = launch.cluster
        out += [
            "      cudaLaunchAttribute cluster = {};",
            "      cluster.id = cudaLaunchAttributeClusterDimension;",
            *(
                f"      cluster.val.clusterDim.{axis} = (unsigned)({e});"
                for axis, e in zip("xyz", (x, y, z), strict=True)
            ),
            "      cudaLaunchConfig_t config = {};",
            "      config.gridDim = blocks;",
            "      config.blockDim = threads;",
            f"      config.dynamicSmemBytes = {launch.shared_bytes};",
            "      config.stream = (cudaStream_t)call->stream;",
            "      config.attrs = &cluster;",
            "      config.numAttrs = 1;",
            f"      cudaError_t error = cudaLaunchKernelExC(&config, (const void*){launch.name}, arguments);",
        ]
    return [*out, "      if (error != cudaSuccess) return error;", "    }", "  }"]
