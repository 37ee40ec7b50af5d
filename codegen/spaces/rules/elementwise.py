"""A stage of which no element depends on another: in vectors, several at a time, in parallel."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir

from ...target import Target
from ..computation import Stage, divisors
from ..constraints import Choice, Constraint, Relation
from ..space import Knob

UNROLLS = (1, 2, 4, 8)
VECTORS = (1, 2, 4)
# Fewer elements than this are not worth starting threads for.
PARALLEL = 1 << 15


class Elementwise:
    """``{stage}_vector``, ``{stage}_unroll``, ``{stage}_parallel``."""

    def __init__(self, stage: Stage, target: Target) -> None:
        self._stage = stage
        name, lanes = stage.name, target.lanes()
        self._length = stage.spatial[-1].extent if stage.spatial else 1
        widths = tuple(w * lanes for w in VECTORS if self._length % (w * lanes) == 0)
        widths = widths or (max(d for d in divisors(self._length) if d <= lanes),)
        unrolls = tuple(u for u in UNROLLS if self._length % (u * widths[0]) == 0)
        self.knobs: Sequence[Knob] = (
            Knob(f"{name}_vector", widths, f"elements of {name} computed at a time"),
            Knob(f"{name}_unroll", unrolls, "so often in one step of the loop"),
            Knob(f"{name}_parallel", (0, 1), "use all threads"),
        )
        self.constraints: Sequence[Constraint] = (
            Relation(
                f"whole steps: {name}_vector * {name}_unroll divides {self._length}",
                (f"{name}_vector", f"{name}_unroll"),
                lambda c: self._length % (c[f"{name}_vector"] * c[f"{name}_unroll"]) == 0,
            ),
        )

    def default(self) -> dict[str, int]:
        """A vector register at a time."""
        name = self._stage.name
        return {
            f"{name}_vector": self.knobs[0].values[0],
            f"{name}_unroll": 1,
            f"{name}_parallel": int(self._stage.elements >= PARALLEL),
        }

    def apply(self, schedule: s_tir.Schedule, choice: Choice) -> None:
        """Loops of one nest: tasks in parallel, unrolled steps, vectors."""
        name = self._stage.name
        loops = schedule.get_loops(schedule.get_sblock(name))
        if not loops:
            return
        *rest, last = loops
        outer, unrolled, vector = schedule.split(last, [None, choice[f"{name}_unroll"], choice[f"{name}_vector"]])
        task = schedule.fuse(*rest, outer)
        if choice[f"{name}_parallel"]:
            schedule.parallel(task)
        schedule.unroll(unrolled)
        schedule.vectorize(vector)
