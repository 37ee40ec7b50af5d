"""From what a GPU space makes of a choice to a CUDA source: TVM writes the device code, we the launcher.

No GPU, driver, nvcc or nvrtc is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx
from tvm.tirx.build import split_host_device_mods
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from ..errors import CodegenError
from ..target import GpuTarget
from . import host, launcher, repair
from .host import Launch
from .kernel import DeviceKernel

# Common subexpressions: TVM's pass hides threadIdx.x from LowerWarpMemory in variables of its own; nvcc finds them too.
PASS_CONFIG = {"tirx.disable_cse_tir": True}


def _plain() -> tuple[tvm.transform.Pass, None, Callable[[], tvm.transform.Pass]]:
    """For code of threads in loops, branches and stores, without blocks of a schedule, "warp" buffers or 8-bit floats.

    It comes out as with the target's own passes, which take three times as long: of those that are left out, some look
    at every access of an array of registers, and each of the others simplifies all of it again.
    """
    t, s = tirx.transform, s_tir.transform
    passes = [
        *(t.StmtSimplify(), t.FlattenBuffer(), t.BF16ComputeLegalize(), t.NarrowDataType(32), t.VectorizeLoop(True)),
        *(t.UnrollLoop(), t.StmtSimplify(), s.RewriteUnsafeSelect(), t.VerifyMemory(), t.AnnotateEntryFunc()),
        *(s.ThreadSync("shared"), t.SplitHostDevice(), t.MakePackedAPI(), t.BF16StorageLegalize()),
    ]
    return tvm.transform.Sequential(passes), None, t.LowerIntrin


register_tir_pipeline("plain", _plain)


@dataclass(frozen=True)
class DeviceSource:
    """A kernel's CUDA source: one ``.cu``, which includes ``abi.h`` and CUDA's headers, and nothing else."""

    symbol: str
    target: GpuTarget
    text: str
    launches: tuple[Launch, ...]
    workspace: bool  # whether it defines tvmops_workspace_{symbol} beside tvmops_launch_{symbol}
    scalars: Mapping[str, str]  # names in the launches' expressions: "n8" is "sizes[2] / 8"


def emit(kernel: DeviceKernel, target: GpuTarget) -> DeviceSource:
    """The source of a kernel for a target.

    The function's scalar arguments are known by name: one of the kernel's sizes or params, or such a name with a number
    after it, in either case, for that part of it (``n8`` is N / 8: so TVM knows that a row holds whole vectors).

    Raises:
        CodegenError: the function needs what the kernel's arguments do not name, or launches nothing.
    """
    # TVM compiles what it lowered, with nvrtc or nvcc, where it finds a CUDA runtime; the source is all we want.
    os.environ["TVM_COMPILE_FORCE_FALLBACK"] = "1"
    func = kernel.make().with_attr("global_symbol", kernel.symbol)
    goal = target.tvm_target()
    with tvm.transform.PassContext(opt_level=3, config={**PASS_CONFIG, **kernel.config}), goal:
        mod = tirx.transform.BindTarget(goal)(tvm.IRModule({kernel.symbol: func}))
        if kernel.pipeline:
            pipeline, _, finalize = tirx.get_tir_pipeline(kernel.pipeline)
        else:
            pipeline, _, finalize = tirx.get_default_tir_pipeline(goal)
        on_host, on_devices = split_host_device_mods(pipeline(mod))
        if len(on_devices) != 1:
            raise CodegenError(f"{kernel.symbol} launches nothing: its schedule binds no loop to blockIdx or threadIdx")
        ((device_target, on_device),) = on_devices.items()
        on_device = finalize()(repair.warp_memory(on_device))
        source = tvm.get_global_func("target.build.cuda")(on_device, device_target).inspect_source("cuda")
    functions = {str(f.attrs["global_symbol"]): f for f in on_device.functions.values()}
    about = host.read(kernel, on_host, functions)
    text = launcher.text(kernel, target, about, repair.text(source))
    launches, workspace = tuple(about.launches), bool(about.workspaces)
    return DeviceSource(kernel.symbol, target, text, launches, workspace, about.scalars)
