"""Hand-written kernels on the emulator, for its tests: the source around a body, and one call to run it."""

from codegen.measure import emulator

_HEAD = """\
#include <stdint.h>
#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <mma.h>
#include "abi.h"
"""


def source(body, types, *, sizes=(), grid=1, block=32, shared=0, before="", bounds=""):
    """A whole .cu: a kernel of pointers p0, p1, ... of ``types`` and the int sizes s0, s1, ..., and its launcher."""
    names = [f"p{i}" for i in range(len(types))] + [f"s{i}" for i in range(len(sizes))]
    kinds = [f"{kind}*" for kind in types] + ["int"] * len(sizes)
    params = ", ".join(f"{kind} {name}" for kind, name in zip(kinds, names, strict=True))
    values = [f"({kind}*)call->buffers[{i}]" for i, kind in enumerate(types)]
    values += [f"(int)call->sizes[{i}]" for i in range(len(sizes))]
    copies = "\n".join(f"  {k} {n} = {v};" for k, n, v in zip(kinds, names, values, strict=True))
    grid, block = (x if isinstance(x, tuple) else (x,) for x in (grid, block))
    return f"""{_HEAD}{before}
extern "C" __global__ void {bounds} kernel({params}) {{
{body}
}}
extern "C" int tvmops_launch_it(const tvmops_launch* call) {{
  int current = 0;
  cudaError_t error = cudaGetDevice(&current);
  if (!error && current != call->device) error = cudaSetDevice(call->device);
{copies}
  void* arguments[] = {{{", ".join(f"&{n}" for n in names)}}};
  if (!error && {shared} > 49152) {{
    error = cudaFuncSetAttribute((const void*)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, {shared});
  }}
  if (!error) {{
    error = cudaLaunchKernel((const void*)kernel, dim3({", ".join(map(str, grid))}), dim3({", ".join(map(str, block))}),
                             arguments, {shared}, (cudaStream_t)call->stream);
  }}
  if (error) cudaGetLastError();
  return error;
}}
"""


def run(directory, body, buffers, types, *, sizes=(), target="sm_90a", options=None, **about):
    """Compiles and launches; the arrays hold what the kernel wrote."""
    library = emulator.compile(source(body, types, sizes=sizes, **about), directory)
    emulator.Emulated(library, target, **(options or {})).launch("it", buffers, list(sizes))
