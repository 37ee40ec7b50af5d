"""What a scan on a GPU combines: sums, products, and the linear recurrence that is the gradient of products.

A state stands for a run of elements. It is one float32, or, of the gradient, the two of a map ``acc -> a acc + b``;
those of two runs combine to that of both. The gradient of products y of x, given that of y as g, is found from the
last product backwards: with acc the gradient of all later products by the product before them, over that product,

    dx_k = y_{k-1} (g_k + acc_k),  acc_{k-1} = x_k (g_k + acc_k)

so that nothing is divided, and zeros in x need no care. Where product k leaves out x_k itself, dx_k = y_k acc_k and
acc_{k-1} = g_k + x_k acc_k. Source: Blelloch, "Prefix Sums and Their Applications", 1990, section 1.4 (recurrences).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..errors import CodegenError

WARP = 32
ALL = 0xFFFFFFFF  # lanes
State = Sequence[Expr]


@dataclass(frozen=True)
class Kind:
    """``identity``: the state of no element."""

    name: str
    identity: tuple[float, ...]

    @property
    def size(self) -> int:
        """Numbers of a state."""
        return len(self.identity)

    @property
    def gradient(self) -> bool:
        """Whether it is the gradient of products."""
        return self.size == 2

    def none(self) -> State:
        """The identity."""
        return [tirx.const(value, "float32") for value in self.identity]

    def combine(self, before: State, after: State) -> State:
        """The state of two runs."""
        if self.name == "sum":
            return [before[0] + after[0]]
        if self.name == "prod":
            return [before[0] * after[0]]
        # What has no gradient has none, also where the factors between overflow.
        term = T.Select(before[1] == T.float32(0), T.float32(0), after[0] * before[1])
        return [before[0] * after[0], after[1] + term]

    def element(self, source: Expr, factor: Expr, exclusive: Expr) -> State:
        """The state of one element; of the gradient, ``source`` is that of the product, ``factor`` the element."""
        return [factor, T.Select(exclusive, source, factor * source)] if self.gradient else [source]


KINDS = {
    "sum": Kind("sum", (0.0,)),
    "prod": Kind("prod", (1.0,)),
    "prod_backward": Kind("prod_backward", (1.0, 0.0)),
}


def kind_of(name: str) -> Kind:
    """The kind of that name.

    Raises:
        CodegenError: there is none.
    """
    if name not in KINDS:
        raise CodegenError(f"no scan of kind {name!r}; known: {', '.join(KINDS)}")
    return KINDS[name]


@dataclass(frozen=True)
class Registers:
    """``count`` states in a buffer: first the first numbers of all."""

    buffer: Any
    kind: Kind
    count: int

    def at(self, i: Any) -> State:
        """One of them."""
        return [self.buffer[i + part * self.count] for part in range(self.kind.size)]


def let(value: Any, dtype: str = "int32") -> Any:
    """A variable with this value, which TVM does not replace by what it stands for."""
    buffer = T.alloc_buffer((1,), dtype, scope="local")
    T.buffer_store(buffer, value, [0])
    return buffer[0]


def become(variable: Any, value: Any) -> None:
    """Another value for what :func:`let` gave."""
    T.buffer_store(variable.source, value, [0])


def put(registers: Registers, i: Any, state: State) -> None:
    """The ``i``-th becomes ``state``, which may be made of what it was."""
    # The second number of a combined state is made of the first of another: that goes last.
    for part in reversed(range(registers.kind.size)):
        T.buffer_store(registers.buffer, state[part], [i + part * registers.count])


def shuffle_up(to: Registers, registers: Registers, i: Any, by: Any) -> None:
    """The ``i``-th of the lane that is so many before this one."""
    put(to, 0, [T.tvm_warp_shuffle_up(T.uint32(ALL), one, by, WARP, WARP) for one in registers.at(i)])


def shuffle(to: Registers, registers: Registers, i: Any, lane: Any) -> None:
    """The ``i``-th of a lane."""
    put(to, 0, [T.tvm_warp_shuffle(T.uint32(ALL), one, lane, WARP, WARP) for one in registers.at(i)])


def warp_scan(registers: Registers, i: Any, other: Registers, lane: Any) -> None:
    """The ``i``-th of each lane becomes the state of its group's lanes up to it; ``lane``: which of its group."""
    with T.unroll(5) as step:
        shuffle_up(other, registers, i, T.shift_left(1, step))
        with T.If(lane >= T.shift_left(1, step)), T.Then():
            put(registers, i, registers.kind.combine(other.at(0), registers.at(i)))
