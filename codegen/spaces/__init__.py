"""How an operator may be scheduled: knobs, constraints between them, and what a choice becomes. One file a space.

An operator may bring a space of its own, for kernels of symbolic sizes. Every operator has two more, for static sizes:
``derived`` (its rules look at the computation alone) and ``metaschedule`` (what TVM would search). On a GPU an operator
has the spaces that its ``device_space`` knows; their choices become kernels of ``codegen.cuda``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from .. import ops
from ..errors import CodegenError

if TYPE_CHECKING:
    from ..target import GpuTarget, Target
    from ..workload import Workload
    from .space import Space

# Spaces for whatever has a definition; a module of each name has ``create(workload, target)``.
GENERIC = ("derived", "metaschedule")


def find(workload: Workload, target: Target | GpuTarget, name: str | None = None) -> Space:
    """The space of that name; by default the operator's own, or the derived one where that does not apply.

    Raises:
        CodegenError: the workload has no such space.
    """
    from ..target import GpuTarget

    if isinstance(target, GpuTarget):
        if not ops.device_workloads(workload.op):
            raise CodegenError(f"{workload.op} has no kernels on a GPU")
        return cast(ops.DeviceOperator, ops.load(workload.op)).device_space(workload, target, name)
    if workload.attrs:
        raise CodegenError(f"{workload.key} is for a GPU, not for {target.name}")
    has_own = ops.has_kernel(workload)
    if name in GENERIC or (name is None and not has_own):
        module = importlib.import_module(f".{name or GENERIC[0]}", __package__)
        return cast("Space", module.create(workload, target))
    own = ops.load(workload.op).space(workload, target) if has_own else None
    if own is None or name not in (None, own.name):
        known = ", ".join([*([own.name] if own else []), *GENERIC])
        raise CodegenError(f"{workload.key} has no space {name!r}; known: {known}")
    return own
