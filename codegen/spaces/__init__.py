"""How an operator may be scheduled: knobs, constraints between them, and what a choice becomes. One file a space.

An operator may bring a space of its own, for kernels of symbolic sizes. Every operator has two more, for static sizes:
``derived`` (its rules look at the computation alone) and ``metaschedule`` (what TVM would search).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from .. import ops
from ..errors import CodegenError

if TYPE_CHECKING:
    from ..target import Target
    from ..workload import Workload
    from .space import Space

# Spaces for whatever has a definition; a module of each name has ``create(workload, target)``.
GENERIC = ("derived", "metaschedule")


def find(workload: Workload, target: Target, name: str | None = None) -> Space:
    """The space of that name; by default the operator's own, or the derived one where that does not apply.

    Raises:
        CodegenError: the workload has no such space.
    """
    has_own = ops.has_kernel(workload)
    if name in GENERIC or (name is None and not has_own):
        module = importlib.import_module(f".{name or GENERIC[0]}", __package__)
        return cast("Space", module.create(workload, target))
    own = ops.load(workload.op).space(workload, target) if has_own else None
    if own is None or name not in (None, own.name):
        known = ", ".join([*([own.name] if own else []), *GENERIC])
        raise CodegenError(f"{workload.key} has no space {name!r}; known: {known}")
    return own
