"""Spaces of wgmma kernels for tests: of a layout, for a GPU so small that blocks take several tiles."""

import dataclasses

from codegen import spaces
from codegen.cuda.lower import emit
from codegen.export import nvcc, sass
from codegen.export.pack import abi_header
from codegen.target import find_gpu
from codegen.workload import Workload

LAYOUTS = [("n", "n"), ("n", "t"), ("t", "n")]
# What most tests run: 64 x 64 a block, a ring of two stages.
SMALL = {"consumers": 1, "tiles": 1, "block_n": 64, "stages": 2, "group": 2, "persistent": 1, "chunk": 32, "cluster": 1}


def space_of(dtype="float16", a="n", b="t", multiprocessors=2):
    target = dataclasses.replace(find_gpu("sm_90a"), multiprocessors=multiprocessors)
    tf32 = ",tf32=1" if dtype == "float32" else ""
    return spaces.find(Workload.parse(f"matmul({dtype};M=*,N=*,K=*;a={a},b={b}{tf32})"), target, "wgmma")


def machine_code(space, folder):
    """Instructions of the space's default, which spills nothing."""
    (kernel,) = space.apply(space.default())
    path = folder / "kernel.cu"
    path.write_text(emit(kernel, space.target).text)
    used = nvcc.compile_source(path, path.with_suffix(".cubin"), "sm_90a", [abi_header().parent])
    nvcc.refuse_spills(used, kernel.symbol)
    return sass.disassemble(path.with_suffix(".cubin"))[f"{kernel.symbol}_kernel"]
