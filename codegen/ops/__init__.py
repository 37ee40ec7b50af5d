"""What is computed. One file an operator or family, found by name.

A file of one operator has the members below; that of a family has ``OPERATORS``, objects with these members by name.

- ``definition(workload)``: the operator in TE, as the tensors of ``te.create_prim_func``; symbolic sizes are variables.
- ``inputs(workload, sizes, seed)``: float arrays to run it on.
- ``reference(*inputs)``: the result in float64; ``aten(*inputs)``: the result of PyTorch, on tensors.
- ``flops(sizes)``, ``bytes(sizes)``: the arithmetic, and the memory traffic if everything is touched once.
- ``space(workload, target)``: the schedules it may take; without it, and for sizes that it is not for, a space is
  derived from the definition (see ``spaces``).
- ``workloads()``: those worth shipping.
- ``device_workloads()``, ``device_space(workload, target, name)``: the same on a GPU, for operators that run there.

TVM is imported by ``definition`` and ``space`` alone, so that a process that only measures does without it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import CodegenError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from tvm import te

    from ..spaces.space import Space
    from ..target import GpuTarget, Target
    from ..workload import Workload


class Operator(Protocol):
    """What a module of this package offers."""

    def definition(self, workload: Workload) -> list[te.Tensor]: ...  # noqa: D102 - told above

    def inputs(self, workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]: ...  # noqa: D102

    def reference(self, *inputs: np.ndarray) -> np.ndarray: ...  # noqa: D102

    def aten(self, *inputs: torch.Tensor) -> torch.Tensor: ...  # noqa: D102

    def flops(self, sizes: Mapping[str, int]) -> int: ...  # noqa: D102

    def bytes(self, sizes: Mapping[str, int]) -> int: ...  # noqa: D102

    def space(self, workload: Workload, target: Target) -> Space: ...  # noqa: D102

    def workloads(self) -> Sequence[Workload]: ...  # noqa: D102


class DeviceOperator(Operator, Protocol):
    """What it offers besides if it runs on a GPU."""

    def device_space(self, workload: Workload, target: GpuTarget, name: str | None = None) -> Space: ...  # noqa: D102

    def device_workloads(self) -> Sequence[Workload]: ...  # noqa: D102


@functools.cache
def _operators() -> dict[str, Operator]:
    found: dict[str, Operator] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f".{info.name}", __package__)
        found |= getattr(module, "OPERATORS", None) or {info.name: cast(Operator, module)}
    return found


def all_ops() -> list[str]:
    """The names of all operators."""
    return sorted(_operators())


def load(op: str) -> Operator:
    """The operator of a name.

    Raises:
        CodegenError: no operator has this name.
    """
    if op not in _operators():
        raise CodegenError(f"unknown operator {op!r}; known: {', '.join(all_ops())}")
    return _operators()[op]


def shipped() -> list[Workload]:
    """The workloads worth shipping, of all operators, general ones first."""
    every = [workload for op in all_ops() for workload in load(op).workloads()]
    return sorted(every, key=lambda w: sum(size is not None for size in w.dims.values()))


def device_shipped(target: GpuTarget) -> list[Workload]:
    """The workloads worth shipping for a GPU: those of all operators that have a space there.

    An operator whose ``device_default`` is false has kernels for who asks, but none in a pack by default.
    """
    every = []
    for op in all_ops():
        if not getattr(load(op), "device_default", True):
            continue
        for workload in device_workloads(op):
            try:
                cast(DeviceOperator, load(op)).device_space(workload, target)
            except CodegenError:
                continue
            every.append(workload)
    return sorted(every, key=lambda w: sum(size is not None for size in w.dims.values()))


def device_workloads(op: str) -> list[Workload]:
    """An operator's workloads for GPUs; none where it has no kernels there."""
    operator = load(op)
    return list(cast(DeviceOperator, operator).device_workloads()) if hasattr(operator, "device_workloads") else []


def check(workload: Workload) -> Workload:
    """The same workload, if its operator, dtype, dimensions and attributes are ones that a kernel can be made for.

    Raises:
        CodegenError: they are not; says which.
    """
    of_host, of_device = load(workload.op).workloads(), device_workloads(workload.op)
    every = [*of_host, *of_device]
    known, dtypes = every[0], dict.fromkeys(w.dtype for w in every)
    if workload.dtype not in dtypes:
        raise CodegenError(f"{workload.op} has no {workload.dtype} kernels, only {', '.join(dtypes)}")
    if list(workload.dims) != list(known.dims):
        raise CodegenError(
            f"{workload.op} has the dimensions {','.join(known.dims)}, in this order, not {','.join(workload.dims)}"
        )
    alike = [w for w in every if w.dtype == workload.dtype]
    _check_attributes(workload, alike)
    patterns = {_pattern(w) for w in alike}
    if _pattern(workload) not in patterns and None in workload.dims.values() and not workload.attrs:
        raise CodegenError(
            f"{workload.key}: kernels of {workload.op} have {' or '.join(sorted(patterns | {'all static'}))}"
        )
    return workload


def _check_attributes(workload: Workload, alike: Sequence[Workload]) -> None:
    values: dict[str, set[str]] = {}
    for one in alike:
        for name, value in one.attrs.items():
            values.setdefault(name, set()).add(value)
    for name, value in workload.attrs.items():
        if name not in values:
            raise CodegenError(f"{workload.op} has no attribute {name!r}")
        if value not in values[name]:
            raise CodegenError(f"{workload.op}: {name}={value} is not one of {', '.join(sorted(values[name]))}")
    having = [{*one.attrs} for one in alike if {*workload.attrs} <= {*one.attrs}]
    if not having:
        raise CodegenError(f"{workload.key}: no kernel of {workload.op} has all of these attributes")
    if missing := sorted(set.intersection(*having) - {*workload.attrs}):
        raise CodegenError(f"{workload.key}: a {workload.dtype} kernel of {workload.op} needs {', '.join(missing)}")


def has_kernel(workload: Workload) -> bool:
    """Whether the operator's own space on a CPU makes kernels for it. With static sizes there are other spaces."""
    operator = load(workload.op)
    if not hasattr(operator, "space") or workload.attrs:
        return False
    alike = [w for w in operator.workloads() if w.dtype == workload.dtype]
    return _pattern(workload) in {_pattern(w) for w in alike}


def _pattern(workload: Workload) -> str:
    return ", ".join(f"{name} {'symbolic' if size is None else 'static'}" for name, size in workload.dims.items())
