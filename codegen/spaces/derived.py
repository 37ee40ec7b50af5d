"""The space that rules derive from a computation: any operator that has a definition has one, for static sizes.

A hand-written space can take one, and add or replace knobs: see ``extra``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import tvm_ffi
from tvm import s_tir, te, tirx
from tvm.ir.prim.expr import FloatImm

from ..target import Target
from ..workload import Workload
from .computation import Stage, stages
from .constraints import Choice, Constraint
from .rules import Rule
from .rules.elementwise import Elementwise
from .rules.inline import Inline
from .rules.rows import Rows
from .rules.tiling import Tiling
from .space import Knob, broken
from .whole import WholeSpace

LOWEST = float.fromhex("-0x1.fffffep+127")  # of float32
Step = Callable[[s_tir.Schedule, Choice], None]


class DerivedSpace(WholeSpace):
    """The knobs and constraints of all rules that apply.

    ``extra``: knobs with their default, added, or put in place of those of the same name; ``constraints``: more of
    them; ``steps``: what applies the added knobs, after all rules.
    """

    name = "derived"

    def __init__(
        self,
        workload: Workload,
        target: Target,
        *,
        definition: Sequence[te.Tensor] | None = None,
        extra: Mapping[Knob, int] | None = None,
        constraints: Sequence[Constraint] = (),
        steps: Sequence[Step] = (),
    ) -> None:
        super().__init__(workload, target)
        if definition is not None:
            self.definition = list(definition)
        self._steps = steps
        self._extra = {knob.name: value for knob, value in (extra or {}).items()}
        self.rules: list[Rule] = list(derive(stages(self.function), target))
        replaced = {knob.name: knob for knob in extra or {}}
        derived = [knob for rule in self.rules for knob in rule.knobs]
        self.knobs: Sequence[Knob] = (
            *(replaced.pop(knob.name, knob) for knob in derived),
            *replaced.values(),
        )
        self.constraints: Sequence[Constraint] = (*(c for rule in self.rules for c in rule.constraints), *constraints)

    def default(self) -> dict[str, int]:
        """What each rule thinks reasonable; the nearest valid choice to that."""
        wished = {name: value for rule in self.rules for name, value in rule.default().items()} | self._extra
        domains = {knob.name: knob.values for knob in self.knobs}
        wished = {name: value if value in domains[name] else domains[name][0] for name, value in wished.items()}
        if not broken(self, wished):
            return wished
        from .solver import Solver  # OR-tools, for this alone

        return Solver(self).solve({}, near=wished) or wished

    def schedule(self, choice: Choice) -> s_tir.Schedule:
        """All rules, one after the other."""
        finite = self._finite
        schedule = s_tir.Schedule(self.function if finite is None else finite, debug_mask="none")
        for rule in self.rules:
            rule.apply(schedule, choice)
        for step in self._steps:
            step(schedule, choice)
        return schedule if finite is None else s_tir.Schedule(_replaced(schedule.mod["main"], LOWEST, -float("inf")))

    @cached_property
    def _finite(self) -> tirx.PrimFunc | None:
        """The function with its infinities as the largest finite numbers, for the length of the scheduling.

        TVM's ``rfactor`` knows a maximum by the identity that te.max has, which is finite; ours start from -inf, as
        they must. None: nothing to replace, or it could not be undone.
        """
        found: set[float] = set()
        tvm_ffi.structural_walk(self.function, (FloatImm, lambda node: found.add(abs(float(node.value)))))
        if float("inf") not in found or -LOWEST in found:
            return None
        return _replaced(self.function, -float("inf"), LOWEST)


def _replaced(function: tirx.PrimFunc, old: float, new: float) -> tirx.PrimFunc:
    """With one constant, and its negative, for another."""

    def replace(node: Any) -> Any:
        for sign in (1, -1):
            if node.value == sign * old:
                return FloatImm(str(node.ty.dtype), sign * new)
        return node

    return tvm_ffi.structural_map(function, (FloatImm, replace))


def derive(found: Sequence[Stage], target: Target) -> Iterator[Rule]:
    """The rules that apply to these stages, in the order in which they have to be applied."""
    inline = Inline(found)
    yield inline
    left = inline.remaining()
    for stage in [s for s in left if s.reuses]:
        follower = _follower(stage, left)
        yield Tiling(stage, follower, target)
        left = [s for s in left if s not in (stage, follower)]
    if any(s.reduced for s in left):
        yield Rows(left, inline, target)
    else:
        for stage in left:
            yield Elementwise(stage, target)


def _follower(stage: Stage, left: Sequence[Stage]) -> Stage | None:
    """The only reader of a stage's result among those left, if it takes element for element; inlined ones do not count.

    A reader that is not left was inlined into its own readers.
    """
    if stage.output:
        return None
    readers = [s for s in left if any(r.stage == stage.name for r in s.reads)]
    if len(readers) != 1 or not readers[0].injective:
        return None
    same = [a.extent for a in readers[0].spatial] == [a.extent for a in stage.spatial]
    return (
        readers[0]
        if same
        and all(
            set(r.touched) >= {a.name for a in readers[0].spatial if a.extent > 1}
            for r in readers[0].reads
            if r.stage == stage.name
        )
        else None
    )


def create(workload: Workload, target: Target) -> DerivedSpace:
    """The space."""
    return DerivedSpace(workload, target)
