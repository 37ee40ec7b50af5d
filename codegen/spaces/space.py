"""What a space is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tvm import tirx

from ..errors import CodegenError
from .constraints import Choice, Constraint


@dataclass(frozen=True)
class Knob:
    """A named integer and the values it may take."""

    name: str
    values: tuple[int, ...]
    meaning: str


@dataclass(frozen=True)
class Leaf:
    """A leaf kernel: its name within a kernel, its symbol (a function of what it is made from), and how it is made.

    ``whole``: not a leaf but a whole kernel, with TVM's calling convention.
    """

    name: str
    symbol: str
    make: Callable[[], tirx.PrimFunc]
    whole: bool = False

    @property
    def linked(self) -> str:
        """The name that a linker knows it by."""
        return f"__tvm_ffi_{self.symbol}" if self.whole else self.symbol


class Space(Protocol):
    """The schedules that a workload may take on a target."""

    name: str
    driver: str
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint]

    def default(self) -> dict[str, int]:
        """A choice that is valid and reasonable."""

    def params(self, choice: Choice) -> dict[str, int]:
        """The driver's params for a choice."""

    def apply(self, choice: Choice) -> list[Leaf]:
        """The leaves that a choice needs."""

    def plan_size(self) -> int:
        """How many size buckets a plan of the workload has."""


def broken(space: Space, choice: Choice) -> list[str]:
    """The constraints that a choice breaks, in words; unknown knobs and values out of domain included."""
    found = [f"unknown knob {name!r}" for name in choice if name not in {k.name for k in space.knobs}]
    for knob in space.knobs:
        if knob.name not in choice:
            found.append(f"knob {knob.name!r} has no value")
        elif choice[knob.name] not in knob.values:
            found.append(f"{knob.name}={choice[knob.name]} is not one of {', '.join(map(str, knob.values))}")
    return found or [c.text for c in space.constraints if not c.holds(choice)]


def pin(space: Space, knobs: Choice) -> None:
    """Leaves of a space only the part where these knobs have these values.

    Raises:
        CodegenError: a knob or a value is not known.
    """
    known = {knob.name: knob for knob in space.knobs}
    for name, value in knobs.items():
        if name not in known:
            raise CodegenError(f"unknown knob {name!r}; known: {', '.join(known)}")
        if value not in known[name].values:
            raise CodegenError(f"{name}={value} is not one of {', '.join(map(str, known[name].values))}")
    space.knobs = tuple(replace(k, values=(knobs[k.name],)) if k.name in knobs else k for k in space.knobs)


def choices(space: Space) -> Iterator[dict[str, int]]:
    """Every valid choice, constraints checked as soon as their knobs are set."""
    return _extensions(space.knobs, space.constraints)


def _extensions(knobs: Sequence[Knob], constraints: Sequence[Constraint]) -> Iterator[dict[str, int]]:
    names = [k.name for k in knobs]

    def extend(i: int, chosen: dict[str, int]) -> Iterator[dict[str, int]]:
        if i == len(names):
            yield dict(chosen)
            return
        ready = [c for c in constraints if names[i] in c.knobs and set(c.knobs) <= set(names[: i + 1])]
        for value in knobs[i].values:
            chosen[names[i]] = value
            if all(c.holds(chosen) for c in ready):
                yield from extend(i + 1, chosen)
        chosen.pop(names[i], None)

    return extend(0, {})


def size(space: Space) -> tuple[int, int]:
    """How many choices the knobs span, and how many of them are valid."""
    bound = {name for constraint in space.constraints for name in constraint.knobs}
    free = math.prod(len(knob.values) for knob in space.knobs if knob.name not in bound)
    total = math.prod(len(knob.values) for knob in space.knobs)
    return total, free * sum(1 for _ in _extensions([k for k in space.knobs if k.name in bound], space.constraints))
