"""Stages that walk along rows: reductions that read each element once, and what is computed between and after them.

They are computed row by row, while the row is in the cache, or each for all rows at once (its position, a knob each). A
reduction runs in many lanes side by side (``rfactor``); a tensor intrinsic joins the lanes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import tvm_ffi
from tvm import s_tir, tirx

from ...target import Target
from .. import intrinsics
from ..computation import REDUCTION, Stage, divisors
from ..constraints import Choice, Constraint, Relation
from ..space import Knob
from .inline import Inline

WIDTHS = (1, 2, 4, 8)
# Fewer elements than this are not worth starting threads for.
PARALLEL = 1 << 14
# Additions in one lane, or the error exceeds twice that of ATen, which sums in a tree.
LONGEST_CHAIN = 64
ALONE, IN_ROW = 0, 1


class Rows:
    """``{stage}_at``: 1 in the loop over rows; ``{stage}_lanes`` of a reduction, ``{stage}_vector`` of others."""

    def __init__(self, stages: Sequence[Stage], inline: Inline, target: Target) -> None:
        """``stages``: those that ``inline`` leaves, without tiled ones."""
        self._stages, self._inline, self._target = stages, inline, target
        shortest = min(len(s.spatial) for s in stages)
        self._rows = 0
        while self._rows < shortest and len({s.spatial[self._rows].extent for s in stages}) == 1:
            self._rows += 1
        knobs: list[Knob] = []
        for i, stage in enumerate(stages):
            name = stage.name
            if stage.reduced:
                knobs.append(Knob(f"{name}_lanes", self._lanes(stage), f"partial results of {name} side by side"))
            elif len(stage.spatial) > self._rows:
                knobs.append(Knob(f"{name}_vector", self._vectors(stage), f"elements of {name} computed at a time"))
            if i and self._rows:
                knobs.append(Knob(f"{name}_at", (ALONE, IN_ROW), "0: for all rows at once; 1: in the loop over rows"))
        knobs.append(Knob("rows_parallel", (0, 1), "use all threads"))
        self.knobs: Sequence[Knob] = tuple(knobs)
        self.constraints: Sequence[Constraint] = (*self._order(), *self._unused())

    def _order(self) -> Iterator[Constraint]:
        """A stage is in the loop over rows only if what it needs is."""
        placed = {stage.name for stage in self._stages[1:]} if self._rows else set()
        for stage in self._stages[1:]:
            for producer, path in dict.fromkeys(self._inline.sources(stage)):
                if producer not in placed:
                    continue
                at, before = f"{stage.name}_at", f"{producer}_at"
                inlined = tuple(f"{name}_inline" for name in path)
                gone = tuple(f"{n}_inline" for n in (stage.name, producer) if self._inline.asks(n))

                def holds(
                    c: Choice, at: str = at, before: str = before, inlined: tuple[str, ...] = inlined,
                    gone: tuple[str, ...] = gone,
                ) -> bool:  # fmt: skip
                    return any(c[g] for g in gone) or not all(c[i] for i in inlined) or c[at] <= c[before]

                text = f"{stage.name} is in the loop over rows only if {producer} is"
                if inlined:
                    text += f", where {', '.join(path)} is inlined"
                yield Relation(text, (at, before, *inlined, *gone), holds)

    def _unused(self) -> Iterator[Constraint]:
        """Knobs of a stage that was inlined have one value, so that equal schedules are equal choices."""
        for stage in self._stages:
            own = [k for k in self.knobs if k.name in (f"{stage.name}_at", f"{stage.name}_vector")]
            if not (self._inline.asks(stage.name) and own):
                continue
            switch, values = f"{stage.name}_inline", {k.name: k.values[-1] for k in own}

            def holds(c: Choice, switch: str = switch, values: Mapping[str, int] = values) -> bool:
                return not c[switch] or all(c[name] == value for name, value in values.items())

            text = f"{switch} = 1 leaves {', '.join(values)} without a meaning: the last value"
            yield Relation(text, (switch, *values), holds)

    def _lanes(self, stage: Stage) -> tuple[int, ...]:
        lanes, extent = self._target.lanes(), stage.reduced[-1].extent
        if stage.combiner is None or len(stage.reduced) > 1:
            return (1,)
        widths = (1, *(w * lanes for w in WIDTHS if extent % (w * lanes) == 0))
        exact = tuple(w for w in widths if stage.combiner != "Add" or extent <= w * LONGEST_CHAIN)
        return exact or widths[-1:]

    def _vectors(self, stage: Stage) -> tuple[int, ...]:
        lanes, extent = self._target.lanes(), stage.spatial[-1].extent
        whole = tuple(w * lanes for w in WIDTHS[:3] if extent % (w * lanes) == 0)
        return whole or (max(d for d in divisors(extent) if d <= lanes),)

    def default(self) -> dict[str, int]:
        """Row by row, four vectors of partial results."""
        out = {}
        for knob in self.knobs:
            lanes = self._target.lanes()
            out[knob.name] = max(v for v in knob.values if v <= 4 * lanes or v == knob.values[0])
            if knob.name.endswith("_vector"):
                out[knob.name] = knob.values[0]
        elements = max(s.elements * math.prod(a.extent for a in s.reduced) for s in self._stages)
        return {**out, "rows_parallel": int(elements >= PARALLEL)}

    def apply(self, schedule: s_tir.Schedule, choice: Choice) -> None:
        """See the module."""
        stages = [s for s in self._stages if choice.get(f"{s.name}_inline") != 1]
        parts = {s.name: self._factored(schedule, s, choice) for s in stages}
        loop: s_tir.schedule.LoopRV | None = None
        for stage in stages:
            first, *rest = (schedule.get_sblock(name) for name in parts[stage.name])
            if loop is None or choice.get(f"{stage.name}_at") == ALONE:
                own = self._row(schedule, first, choice)
                loop = own if loop is None else loop
            else:
                own = loop
                rest = [first, *rest]
            for block in rest if own is not None else ():
                schedule.reverse_compute_at(block, own, preserve_unit_loops=True)
        for stage in stages:
            self._vectorized(schedule, stage, choice)

    def _factored(self, schedule: s_tir.Schedule, stage: Stage, choice: Choice) -> list[str]:
        """Splits a reduction into lanes. Returns the names of its blocks, in order."""
        lanes = choice.get(f"{stage.name}_lanes", 1)
        if lanes == 1:
            return [stage.name]
        block = schedule.get_sblock(stage.name)
        _, lane = schedule.split(schedule.get_loops(block)[-1], [None, lanes])
        partial = schedule.rfactor(lane, factor_axis=len(stage.spatial))
        return [schedule.get(partial).name_hint, stage.name]

    def _row(
        self, schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV, choice: Choice
    ) -> s_tir.schedule.LoopRV | None:
        """The loop over rows of a block that starts a nest."""
        if not self._rows:
            return None
        row = schedule.fuse(*schedule.get_loops(block)[: self._rows])
        if choice["rows_parallel"]:
            schedule.parallel(row)
        return row

    def _vectorized(self, schedule: s_tir.Schedule, stage: Stage, choice: Choice) -> None:
        block = schedule.get_sblock(stage.name)
        if not stage.reduced:
            width = choice.get(f"{stage.name}_vector", 1)
            if width > 1:
                schedule.vectorize(schedule.split(schedule.get_loops(block)[-1], [None, width])[1])
            return
        lanes = choice[f"{stage.name}_lanes"]
        (reduction,) = self._loops(schedule, block, [v.iter_type == REDUCTION for v in schedule.get(block).iter_vars])
        if lanes == 1:
            schedule.decompose_reduction(block, reduction)
            return
        partial = schedule.get_sblock(f"{stage.name}_rf")
        # Its iterators are the lanes, those of the result, and the steps.
        variables = schedule.get(partial).iter_vars
        (lane,) = self._loops(schedule, partial, [i == 0 for i in range(len(variables))])
        (step,) = self._loops(schedule, partial, [v.iter_type == REDUCTION for v in variables])
        schedule.reorder(step, lane)
        schedule.vectorize(lane)
        schedule.decompose_reduction(partial, step)
        self._innermost(schedule, block, reduction)
        schedule.decompose_reduction(block, reduction)
        assert stage.combiner
        schedule.tensorize(reduction, intrinsics.joined(stage.combiner, lanes, self._target.lanes()))

    @staticmethod
    def _loops(
        schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV, wanted: Sequence[bool]
    ) -> list[s_tir.schedule.LoopRV]:
        """The loops that the wanted iterators of a block are made of, from outside."""
        loops = schedule.get_loops(block)
        realize = schedule.get(loops[-1]).body
        found: list[tirx.Var] = []
        for want, value in zip(wanted, realize.iter_values, strict=True):
            if want:
                tvm_ffi.structural_walk(value, (tirx.Var, found.append))
        return [loop for loop in loops if any(schedule.get(loop).loop_var.same_as(v) for v in found)]

    @staticmethod
    def _innermost(schedule: s_tir.Schedule, block: s_tir.schedule.SBlockRV, wanted: s_tir.schedule.LoopRV) -> None:
        own = schedule.get(wanted).loop_var
        inside = []
        for loop in reversed(schedule.get_loops(block)):
            if schedule.get(loop).loop_var.same_as(own):
                break
            inside.append(loop)
        if inside:
            schedule.reorder(*reversed(inside), wanted)
