"""Injective stages are computed where they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tvm import s_tir

from ..computation import Stage, named
from ..constraints import Choice, Constraint
from ..space import Knob

# A stage of more operations than this is not computed again and again without asking.
CHEAP = 8


class Inline:
    """A stage that is dear and read more than once is asked about, by a knob; others go without one."""

    constraints: Sequence[Constraint] = ()

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._always: set[str] = set()
        knobs = []
        for stage in stages:
            if not stage.injective or stage.output:
                continue
            if stage.work <= CHEAP or not self._again(stage):
                self._always.add(stage.name)
            else:
                knobs.append(Knob(f"{stage.name}_inline", (0, 1), f"compute {stage.name} anew for each reader"))
        self.knobs: Sequence[Knob] = tuple(knobs)

    def _again(self, stage: Stage) -> bool:
        """Whether an element is read by several stages, or by one several times."""
        readers = [named(self._stages, name) for name in stage.consumers]
        return len(readers) > 1 or any(
            axis.extent > 1 and axis.name not in read.touched
            for reader in readers
            for read in reader.reads
            if read.stage == stage.name
            for axis in reader.axes
        )

    def remaining(self) -> list[Stage]:
        """Those that are, or may be, stages of their own after this rule."""
        return [s for s in self._stages if s.name not in self._always]

    def sources(self, stage: Stage) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Stages whose results this one needs, each with those on the way that must be inlined for it to do so."""
        for read in stage.reads:
            if read.stage is None:
                continue
            producer = named(self._stages, read.stage)
            if producer.name in self._always:
                yield from self.sources(producer)
                continue
            yield producer.name, ()
            if self.asks(producer.name):
                yield from ((name, (*path, producer.name)) for name, path in self.sources(producer))

    def asks(self, name: str) -> bool:
        """Whether a knob decides."""
        return any(knob.name == f"{name}_inline" for knob in self.knobs)

    def default(self) -> dict[str, int]:
        """Nothing dear twice."""
        return {knob.name: 0 for knob in self.knobs}

    def apply(self, schedule: s_tir.Schedule, choice: Choice) -> None:
        """In order: what was inlined into a stage goes with it."""
        for stage in self._stages:
            if stage.name in self._always or choice.get(f"{stage.name}_inline") == 1:
                schedule.compute_inline(schedule.get_sblock(stage.name))
