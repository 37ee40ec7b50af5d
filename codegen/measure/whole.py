"""What is checked and timed of a whole kernel: its one size, on tensors that it is bound to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tvmops import _C

from .. import ops
from ..workload import Workload
from . import rows
from .case import ACTIVATION_FLOOR, ERROR_FLOOR, Case, judge

# As ``spaces/whole.py`` numbers them.
DTYPES = (
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.int8, torch.uint8
)  # fmt: skip
# Operators without a function of their own: nothing adds to the error of their sums.
PRODUCTS = ("linear", "matmul")


def checks(workload: Workload, knobs: Mapping[str, int], seed: int) -> Iterator[Case]:
    """Two sets of numbers; and a call of the operator, if it may come to the kernel."""
    for numbers in (seed, seed + 1):
        yield _case(workload, numbers, exact=True)
    if _is_served(workload):
        yield rows.case(workload, _sizes(workload), seed, exact=True)


def timings(workload: Workload, seed: int) -> Iterator[Case]:
    """The kernel alone."""
    yield _case(workload, seed, exact=False)


def plan(kernel: Mapping[str, Any], threads: Sequence[int]) -> tuple[list[int], list[float]]:
    """One bucket. Calls of the operator are compared, if they may come to the kernel."""
    workload = Workload.parse(kernel["workload"])
    served = _is_served(workload)
    one = rows.case(workload, _sizes(workload), 0, exact=False) if served else _case(workload, 0, exact=False)
    return judge(1, lambda _: [one], threads)


def bind(workload: Workload, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], Tensor]:
    """The loaded kernel of a workload as a call on these tensors, and the first of the results that it writes."""
    kernel = _kernel(workload)
    params = kernel["params"]
    tensors = []
    for i in range(params["arguments"]):
        shape = [params[f"size{i}_{d}"] for d in range(params[f"ndim{i}"])]
        tensors.append(torch.empty(shape, dtype=DTYPES[params[f"dtype{i}"]]))
        if i < len(inputs):
            # A copy: PyTorch's memory is aligned as kernels need it, NumPy's is not.
            tensors[i].copy_(inputs[i].reshape(shape))
    return _C.BoundKernel(kernel["name"], tensors), tensors[params["arguments"] - params["outputs"]]


def _case(workload: Workload, seed: int, *, exact: bool) -> Case:
    operator: Any = ops.load(workload.op)
    sizes = _sizes(workload)
    arrays = operator.inputs(workload, sizes, seed)
    params = operator.arguments(sizes) if hasattr(operator, "arguments") else ()
    ours, result = bind(workload, [*map(torch.from_numpy, arrays), *(torch.tensor([p]) for p in params)])
    inputs = [torch.from_numpy(a) for a in arrays]
    reference = torch.from_numpy(operator.reference(*arrays)) if exact else None

    def call() -> Tensor:
        ours()
        return result if reference is None else result.view(reference.shape)

    floor = ERROR_FLOOR if workload.op in PRODUCTS else ACTIVATION_FLOOR
    timed: Callable[[], Any] = call if exact else ours
    return Case(sizes, "whole", timed, lambda: operator.aten(*inputs), reference, floor=floor, explained=False)


def _sizes(workload: Workload) -> dict[str, int]:
    return {name: size for name, size in workload.dims.items() if size is not None}


def _kernel(workload: Workload) -> dict[str, Any]:
    return next(k for k in _C.kernels(workload.key) if k["driver"] == "whole" and not k["shadowed"])


def _is_served(workload: Workload) -> bool:
    """Whether calls of the operator may come to the kernel: it then has what a driver needs to know."""
    return "operands" in _kernel(workload)["params"]
