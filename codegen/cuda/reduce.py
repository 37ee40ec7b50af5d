"""From the programs of a reduction to one launch of up to two kernels: for rows along memory or across, and a join.

Which of them have blocks, and how many, follows from the sizes. Pieces of rows leave partial results in the workspace,
and the join makes results of those in one order, whatever the order in which blocks run.
"""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx

from ..leaves import storage
from ..leaves.lower import sequence
from ..program import Program
from .reduce_columns import Across
from .reduce_cut import SIZES, ReduceShape
from .reduce_rows import Along, Join, Reduce
from .row_memory import i64

BUFFERS = ("x", "y")
PARAMS = ("divisor",)


def reduce_kernel(programs: Mapping[str, Program], dtype: str, shape: ReduceShape) -> tirx.PrimFunc:
    """x [outer, n, inner] to y [outer, inner]; ``programs``: the whole "", its "part" and "join"."""
    sizes = {name: tirx.Var(name, "int64") for name in SIZES}
    outer, n, inner, pieces = (sizes[name] for name in ("outer", "n", "inner", "pieces"))
    divisor = tirx.Var(*PARAMS, "float32")
    whole, part = programs[""], programs["part"]
    result = whole.operand("y").dtype
    x = tirx.decl_buffer((outer * n * inner,), storage.memory(dtype), "x")
    y = tirx.decl_buffer((outer * inner,), storage.memory(dtype if result == "data" else result), "y")
    # A piece is a whole row where there is no other.
    count = outer * inner * tirx.Select(pieces > i64(1), pieces, i64(0))
    rooms = tuple(tirx.decl_buffer((count,), "float32", f"{o.name}_room") for o in part.operands if o.written)
    problem = Reduce(whole, part, programs["join"], dtype, shape, sizes, divisor, x, y, rooms)
    kernels = [Along(problem).statement(), Across(problem).statement(), Join(problem).statement()]
    body = sequence(*map(tirx.AllocBuffer, rooms), *kernels)
    func = tirx.PrimFunc([x, y, *sizes.values(), divisor], body)
    return func.with_attr({"tirx.noalias": True, "global_symbol": "main"})
