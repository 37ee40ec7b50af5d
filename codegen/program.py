"""Row programs: what is computed along the rows of a tensor, once, for every kernel and for its definition in TE.

A :class:`Program` says what happens to a row of ``n`` elements in one or more passes: reduce it to scalars, compute
with those, map it to outputs. ``leaves/rows.py`` makes vector code of it, :func:`definition` plain TE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ._tvm import Expr, te, tirx
from .leaves.lower import f32, i32
from .mathlib import maximum, minimum

MAX_OPERANDS, MAX_PARAMS = 10, 4
Value = Callable[[Any], Expr]
Role = Literal["row", "vector", "scalar", "partial", "scratch", "single"]


@dataclass(frozen=True)
class Operand:
    """A pointer of the leaf.

    Roles: ``row``, one element per element of the row; ``vector`` [n], the same for all rows; ``scalar``, one per row;
    ``partial`` [n], float32, to which every row adds; ``scratch``, float32, what one pass stores for a later one to
    load, in memory that the driver brings (``written``); ``single``, one element for all rows, read only, on GPUs
    alone. ``dtype`` "data" is the storage dtype of the kernel.
    """

    name: str
    role: Role = "row"
    written: bool = False
    dtype: str = "data"


@dataclass(frozen=True)
class Rare:
    """What a pass stores instead to vectors of which an element of ``name`` is below ``bound``.

    The pass then stores a quicker form that is right above it.
    """

    name: str
    bound: float
    store: Mapping[str, Value]


@dataclass(frozen=True)
class Pass:
    """One walk along the row. Functions take a namespace: operands, values, scalars and params by name, ``j``, ``n``.
    On a GPU there is also ``length``, n as an int64.

    ``values`` are computed first, in order; ``store`` writes row and scratch operands; ``reduce`` maps a name to
    ("sum" | "max" | "min" | "nanmax" | ..., term); ``add`` adds to partial operands. Those two see what was stored, as
    it was rounded. ``prefetch`` names row operands to ask for meanwhile, for a pass that computes more than it reads:
    of those that are only read the next rows, of written ones this row, which a later pass will store.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    reduce: Mapping[str, tuple[str, Value]] = field(default_factory=dict)
    store: Mapping[str, Value] = field(default_factory=dict)
    add: Mapping[str, Value] = field(default_factory=dict)
    prefetch: Sequence[str] = ()
    rare: Rare | None = None


@dataclass(frozen=True)
class Scalars:
    """Computation once a row: ``values`` in order, then ``store`` to scalar operands.

    ``must`` is what holds of every row: where it does not, a kernel on a GPU stops the device with an error, as an
    assertion does. On a CPU the operator looks before.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    store: Mapping[str, Value] = field(default_factory=dict)
    must: Value | None = None


@dataclass(frozen=True)
class Program:
    """Operands, at most MAX_OPERANDS; float params, at most MAX_PARAMS; the steps.

    ``constants`` are vectors by name, of which a lane sees its own element.
    """

    operands: tuple[Operand, ...]
    steps: tuple[Pass | Scalars, ...]
    params: tuple[str, ...] = ()
    constants: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.operands) <= MAX_OPERANDS
        assert len(self.params) <= MAX_PARAMS
        assert sum(o.role == "scratch" for o in self.operands) <= 1

    def operand(self, name: str) -> Operand:
        """By name."""
        return next(o for o in self.operands if o.name == name)


@dataclass(frozen=True)
class Reduction:
    """How two partial results become one, and what leaves any as it is."""

    dtype: str
    identity: float | int
    combine: Callable[[Expr, Expr], Expr]


_INF = float("inf")
REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction("float32", 0.0, lambda a, x: a + x),
    # NaN is not kept: for a maximum that is then subtracted from every element, which brings it back.
    "max": Reduction("float32", -_INF, lambda a, x: tirx.max(a, x)),
    "nanmax": Reduction("float32", -_INF, maximum),
    "nanmin": Reduction("float32", _INF, minimum),
    "first": Reduction("int32", 2**31 - 1, lambda a, x: tirx.min(a, x)),
}


class Names:
    """The namespace that a program's functions see."""

    def __init__(self, resolve: Callable[[str], Expr]) -> None:
        self._resolve = resolve

    def __getattr__(self, name: str) -> Expr:
        return self._resolve(name)


def used(step: Pass | Scalars) -> set[str]:
    """The names that a step reads."""
    seen: set[str] = set()

    def note(name: str) -> Expr:
        seen.add(name)
        return i32(0) if name == "j" else f32(1.0)

    names = Names(note)
    functions = [*step.values.values(), *step.store.values()]
    if isinstance(step, Pass):
        functions += [*(f for _, f in step.reduce.values()), *step.add.values()]
    elif step.must:
        functions.append(step.must)
    for function in functions:
        function(names)
    return seen


def definition(program: Program, rows: Expr | int, n: Expr | int, dtype: str = "float32") -> list[te.Tensor]:
    """The program in TE: inputs in order, then params as tensors of one element, then what is written, in order.

    Row operands are [rows, n], vector and partial ones [n], scalar ones [rows].
    """
    tensors: dict[str, te.Tensor] = {}
    shapes = {"row": (rows, n), "vector": (n,), "partial": (n,), "scalar": (rows,), "single": (1,)}
    results: dict[str, te.Tensor] = {}
    given: list[te.Tensor] = []
    for o in program.operands:
        if not o.written:
            kind = dtype if o.dtype == "data" else o.dtype
            tensors[o.name] = te.placeholder(shapes[o.role], kind, o.name)
            given.append(tensors[o.name])
    for name in program.params:
        tensors[name] = te.placeholder((1,), "float32", name)
        given.append(tensors[name])

    def element(name: str, i: Expr, j: Expr | None) -> Expr:
        if name == "n":
            return (i32(n) if isinstance(n, int) else n).astype("float32")
        if name == "j":
            assert j is not None
            return j
        tensor = tensors[name]
        if name in program.params:
            return tensor[0]
        role = next((o.role for o in program.operands if o.name == name), "scalar")
        places = {"row": (i, j), "vector": (j,), "single": (0,)}
        value = tensor[places.get(role, (i, j)[: len(tensor.shape)])]
        return value if "int" in str(tensor.dtype) else value.astype("float32")

    def names(i: Expr, j: Expr | None) -> Names:
        return Names(lambda name: element(name, i, j))

    # te.compute takes functions without default arguments: these bind what differs between turns of the loop below.
    def row(f: Value) -> Callable[[Any], Expr]:
        return lambda i: f(names(i, None))

    def along(f: Value) -> Callable[[Any, Any], Expr]:
        return lambda i, j: f(names(i, j))

    def over_rows(f: Value) -> Callable[[Any], Expr]:
        r = te.reduce_axis((0, rows), "r")
        return lambda j: te.sum(f(names(r.var, j)), axis=r)

    def over_row(kind: str, f: Value) -> Callable[[Any], Expr]:
        k, reduction = te.reduce_axis((0, n), "k"), REDUCTIONS[kind]
        identity = tirx.const(reduction.identity, reduction.dtype)
        fold = te.comm_reducer(lambda a, x: reduction.combine(a, x), lambda _: identity, name=kind)
        return lambda i: fold(f(names(i, k.var)), axis=k)

    def store(name: str, shape: tuple[Any, ...], compute: Callable[..., Expr]) -> None:
        o = program.operand(name)
        kind = dtype if o.dtype == "data" else o.dtype
        results[name] = te.compute(shape, lambda *at: compute(*at).astype(kind), name)
        tensors[name] = results[name]

    for step in program.steps:
        if isinstance(step, Scalars):
            for name, f in step.values.items():
                tensors[name] = te.compute((rows,), row(f), name)
            for name, f in step.store.items():
                store(name, (rows,), row(f))
            continue
        for name, f in step.values.items():
            tensors[name] = te.compute((rows, n), along(f), name)
        for name, f in (step.rare.store if step.rare else step.store).items():
            store(name, (rows, n), along(f))
        for name, f in step.add.items():
            results[name] = te.compute((n,), over_rows(f), name)
        for name, (kind, f) in step.reduce.items():
            tensors[name] = te.compute((rows,), over_row(kind, f), name)
    return [*given, *(results[o.name] for o in program.operands if o.written and o.role != "scratch")]
