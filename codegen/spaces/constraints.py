"""What must hold between the knobs of a space, in forms that a constraint solver understands.

Each class says it three times: to a person (``text``), to Python (``holds``), to OR-tools' CP-SAT (``post``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CodegenError

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

Choice = Mapping[str, int]
Domains = Mapping[str, Sequence[int]]
# A relation of more combinations than this wants a form of its own.
LARGEST_TABLE = 200_000


class Constraint(Protocol):
    """``knobs`` are those it is about."""

    @property
    def text(self) -> str: ...  # noqa: D102 - told above

    @property
    def knobs(self) -> tuple[str, ...]: ...  # noqa: D102

    def holds(self, choice: Choice) -> bool:
        """Whether a choice that has values for ``knobs`` meets it."""

    def post(self, model: cp_model.CpModel, variables: Mapping[str, Any], domains: Domains) -> None:
        """Adds it to a model whose variables are the knobs."""


@dataclass(frozen=True)
class Relation:
    """Any predicate on few knobs: the solver gets the table of what it allows."""

    text: str
    knobs: tuple[str, ...]
    holds: Callable[[Choice], bool]

    def post(self, model: cp_model.CpModel, variables: Mapping[str, Any], domains: Domains) -> None:
        """As a table of allowed assignments.

        Raises:
            CodegenError: the knobs have too many combinations.
        """
        count = math.prod(len(domains[name]) for name in self.knobs)
        if count > LARGEST_TABLE:
            raise CodegenError(f"{self.text!r} relates {count} combinations of knobs, more than {LARGEST_TABLE}")
        allowed = [
            values
            for values in product(*(domains[name] for name in self.knobs))
            if self.holds(dict(zip(self.knobs, values, strict=True)))
        ]
        model.add_allowed_assignments([variables[name] for name in self.knobs], allowed)


@dataclass(frozen=True)
class Split:
    """A loop of ``extent`` is split: the factors' product is the extent."""

    extent: int
    knobs: tuple[str, ...]

    @property
    def text(self) -> str:
        """In words."""
        return f"{' * '.join(self.knobs)} = {self.extent}"

    def holds(self, choice: Choice) -> bool:
        """Exactly."""
        return math.prod(choice[name] for name in self.knobs) == self.extent

    def post(self, model: cp_model.CpModel, variables: Mapping[str, Any], domains: Domains) -> None:
        """As a chain of products."""
        total = _product(model, [variables[name] for name in self.knobs], self.extent)
        model.add(total == self.extent)


@dataclass(frozen=True)
class AtMost:
    """A sum of products of knobs is bounded: bytes of tiles in a cache, accumulators in registers.

    ``terms`` are a factor and the knobs that it is multiplied with.
    """

    what: str
    terms: tuple[tuple[int, tuple[str, ...]], ...]
    bound: int

    @property
    def knobs(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(name for _, names in self.terms for name in names))

    @property
    def text(self) -> str:
        """In words."""
        written = " + ".join(
            " * ".join((*(() if factor == 1 and names else (str(factor),)), *names)) for factor, names in self.terms
        )
        return f"{self.what}: {written} <= {self.bound}"

    def holds(self, choice: Choice) -> bool:
        """The sum is at most the bound."""
        return self.sum(choice) <= self.bound

    def sum(self, choice: Choice) -> int:
        """What is bounded."""
        return sum(f * math.prod(choice[name] for name in names) for f, names in self.terms)

    def post(self, model: cp_model.CpModel, variables: Mapping[str, Any], domains: Domains) -> None:
        """As a linear inequality over products."""
        parts = []
        for factor, names in self.terms:
            largest = math.prod(max(domains[name]) for name in names)
            parts.append(factor * (_product(model, [variables[n] for n in names], largest) if names else 1))
        model.add(sum(parts) <= self.bound)


@dataclass(frozen=True)
class Multiple:
    """A knob is a multiple of another: alignment, whole tiles in a block."""

    knob: str
    of: str

    @property
    def knobs(self) -> tuple[str, ...]:
        """Both."""
        return (self.knob, self.of)

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.knob} is a multiple of {self.of}"

    def holds(self, choice: Choice) -> bool:
        """Nothing is left over."""
        return choice[self.knob] % choice[self.of] == 0

    def post(self, model: cp_model.CpModel, variables: Mapping[str, Any], domains: Domains) -> None:
        """As a modulo."""
        model.add_modulo_equality(0, variables[self.knob], variables[self.of])


@dataclass(frozen=True)
class Position:
    """A stage is computed at a loop of its consumer: only where the consumer has so many loops."""

    knob: str
    loops: str

    @property
    def knobs(self) -> tuple[str, ...]:
        """Both."""
        return (self.knob, self.loops)

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.knob} is one of the {self.loops} loops of the consumer"

    def holds(self, choice: Choice) -> bool:
        """Counted from 0."""
        return 0 <= choice[self.knob] < choice[self.loops]

    def post(self, model: cp_model.CpModel, variables: Mapping[str, Any], domains: Domains) -> None:
        """As an inequality."""
        model.add(variables[self.knob] >= 0)
        model.add(variables[self.knob] < variables[self.loops])


def _product(model: cp_model.CpModel, factors: Sequence[Any], largest: int) -> Any:
    total = factors[0]
    for factor in factors[1:]:
        result = model.new_int_var(0, max(largest, 1), "")
        model.add_multiplication_equality(result, [total, factor])
        total = result
    return total
