"""The space of rotary embeddings on CPU: the leaves leave nothing to choose, threads do.

The driver (csrc/drivers/rotary.cpp) gives the params their meaning; leaves are bound by the names used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..leaves import rotary, storage
from ..target import Target
from ..workload import Workload
from .constraints import Constraint
from .space import Choice, Knob, Leaf

# Upper bounds of the size buckets of a plan; the last bucket has none. csrc/drivers/rotary.cpp has the same.
ELEMENT_BOUNDS = (1 << 10, 1 << 14, 1 << 18, 1 << 22)


class RotarySpace:
    """Knobs of a rotary embedding."""

    name = "rotary"
    driver = "rotary"
    knobs: Sequence[Knob]
    constraints: Sequence[Constraint] = ()

    def __init__(self, workload: Workload, target: Target) -> None:
        self.workload, self.target = workload, target
        self.knobs = (Knob("parallel_bytes", (16 << 10, 64 << 10, 256 << 10), "what is worth starting threads for"),)

    def default(self) -> dict[str, int]:
        """As for row programs."""
        return {"parallel_bytes": 64 << 10}

    def params(self, choice: Choice) -> dict[str, int]:
        """What the driver binds."""
        return {"bytes": storage.size(self.workload.dtype), "parallel_bytes": choice["parallel_bytes"]}

    def apply(self, choice: Choice) -> list[Leaf]:
        """The leaves, whatever the choice."""
        dtype, lanes = self.workload.dtype, self.target.lanes()
        prefix = f"tvmops_{self.target.name.replace('-', '_')}_{self.workload.op}_{dtype}"
        made = {"halves": rotary.halves, "pairs": rotary.pairs}
        return [Leaf(k, f"{prefix}_{k}", partial(f, f"{prefix}_{k}", dtype, lanes)) for k, f in made.items()]

    def plan_size(self) -> int:
        """By size."""
        return len(ELEMENT_BOUNDS) + 1
