"""What is checked and timed of a whole kernel: its one size, on tensors that it is bound to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tvmops import _C

from .. import ops
from ..workload import Workload
from .case import ACTIVATION_FLOOR, ERROR_FLOOR, Case, judge

# As ``spaces/whole.py`` numbers them.
DTYPES = (
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.int8, torch.uint8
)  # fmt: skip
# Operators without a function of their own: nothing adds to the error of their sums.
PRODUCTS = ("linear", "matmul")


def checks(workload: Workload, knobs: Mapping[str, int], seed: int) -> Iterator[Case]:
    """Its size, with two sets of numbers."""
    for numbers in (seed, seed + 1):
        yield _case(workload, numbers, exact=True)


def timings(workload: Workload, seed: int) -> Iterator[Case]:
    """Its size."""
    yield _case(workload, seed, exact=False)


def plan(kernel: Mapping[str, Any], threads: Sequence[int]) -> tuple[list[int], list[float]]:
    """One bucket."""
    workload = Workload.parse(kernel["workload"])
    return judge(1, lambda _: [_case(workload, 0, exact=False)], threads)


def _case(workload: Workload, seed: int, *, exact: bool) -> Case:
    operator: Any = ops.load(workload.op)
    sizes = {name: size for name, size in workload.dims.items() if size is not None}
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


def bind(workload: Workload, inputs: Sequence[Tensor]) -> tuple[Callable[[], None], Tensor]:
    """The loaded kernel of a workload as a call on these tensors, and the first of the results that it writes."""
    kernel = next(k for k in _C.kernels(workload.key) if k["driver"] == "whole" and not k["shadowed"])
    params = kernel["params"]
    tensors = []
    for i in range(params["arguments"]):
        shape = [params[f"size{i}_{d}"] for d in range(params[f"ndim{i}"])]
        dtype = DTYPES[params[f"dtype{i}"]]
        if i < len(inputs):
            # A copy: PyTorch's memory is aligned as kernels need it, NumPy's is not.
            tensors.append(torch.empty(shape, dtype=dtype).copy_(inputs[i].reshape(shape)))
        else:
            tensors.append(torch.empty(shape, dtype=dtype))
    first: Tensor = tensors[params["arguments"] - params["outputs"]]
    return _C.BoundKernel(kernel["name"], tensors), first
