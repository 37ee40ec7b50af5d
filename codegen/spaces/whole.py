"""Spaces whose candidates are whole kernels: functions of tensors of static shapes, parallelised by TVM."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import tvm
from tvm import s_tir, te, tirx

from .. import ops
from ..errors import CodegenError
from ..ops._rows import RowsOperator
from ..target import Target
from ..workload import Workload
from .constraints import Choice, Constraint
from .space import Knob, Leaf

MAIN = "main"
ROLES = ("operands", "role", "written", "bytes", "flat")
# Of tensors, by the number that the params of a kernel tell. ``measure/whole.py`` has the same in PyTorch.
DTYPES = ("float32", "bfloat16", "float16", "float64", "int64", "int32", "int8", "uint8")


class WholeSpace:
    """What such spaces share. A space says what its knobs are, and how ``schedule`` applies them."""

    name: str
    driver = "whole"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def __init__(self, workload: Workload, target: Target) -> None:
        """Raises CodegenError if a dimension is symbolic."""
        symbolic = [name for name, size in workload.dims.items() if size is None]
        if symbolic:
            raise CodegenError(f"the space {self.name} needs static sizes; {symbolic[0]} of {workload.key} is symbolic")
        self.workload, self.target = workload, target

    @cached_property
    def function(self) -> tirx.PrimFunc:
        """The computation, not scheduled: inputs, params of one element, outputs."""
        return te.create_prim_func(self.definition)

    @cached_property
    def definition(self) -> list[te.Tensor]:
        """In TE."""
        return ops.load(self.workload.op).definition(self.workload)

    def schedule(self, choice: Choice) -> s_tir.Schedule:
        """The schedule of a choice.

        Raises:
            Exception: TVM can't apply it; the candidate fails.
        """
        raise NotImplementedError

    def default(self) -> dict[str, int]:
        """A choice that is valid and reasonable."""
        raise NotImplementedError

    def params(self, choice: Choice) -> dict[str, int]:
        """How many tensors the kernel takes, how many of them, the last, it writes, and what they are like."""
        inputs = sum(isinstance(t.op, te.PlaceholderOp) for t in self.definition)
        out = {"arguments": len(self.definition), "outputs": len(self.definition) - inputs}
        for i, tensor in enumerate(self.definition):
            out[f"dtype{i}"] = DTYPES.index(str(tvm.DataType(tensor.dtype)))
            out[f"ndim{i}"] = len(tensor.shape)
            out |= {f"size{i}_{d}": int(size) for d, size in enumerate(tensor.shape)}
        return out | self._roles()

    def _roles(self) -> dict[str, int]:
        """What the driver of row programs must know to give its problems to this kernel; nothing for other operators.

        Nor for those that have a variant for each activation: the definition is of the first alone.
        """
        operator = ops.load(self.workload.op)
        if not isinstance(operator, RowsOperator) or len(operator.variants(self.workload.dtype)) > 1:
            return {}
        rows = operator.space(self.workload, self.target)
        params = rows.params(rows.default())
        return {name: value for name, value in params.items() if name.rstrip("0123456789") in ROLES}

    def apply(self, choice: Choice) -> list[Leaf]:
        """The kernel of a choice."""
        content = f"{tvm.__version__} {self.name} {self.workload.key} {self.target} {sorted(choice.items())}"
        name = f"tvmops_{self.workload.op}_{hashlib.sha256(content.encode()).hexdigest()[:16]}"

        def make() -> tirx.PrimFunc:
            return self.schedule(choice).mod["main"].with_attr("global_symbol", name)

        return [Leaf(MAIN, name, make, whole=True)]

    def plan_size(self) -> int:
        """One: its only size."""
        return 1
