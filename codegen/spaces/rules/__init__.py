"""Rules that derive a space from a computation: each looks at its stages, adds knobs and constraints, applies a choice.

``inline`` (what is cheap is computed where it is read), ``tiling`` (of reductions that read elements again and again,
with copies of operands and the fusion of what follows), ``rows`` (reductions along rows and what lies between them, the
last step of a reduction tensorized), ``elementwise``. After Zheng et al., "Ansor", OSDI 2020 (a space from the
definition of the computation), and Bi et al., "Heron", ASPLOS 2023 (rules that add constraints, which a solver keeps).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tvm import s_tir

from ..constraints import Choice, Constraint
from ..space import Knob


class Rule(Protocol):
    """What a rule offers. ``apply`` is called in the order in which the rules were made."""

    @property
    def knobs(self) -> Sequence[Knob]: ...  # noqa: D102 - told above

    @property
    def constraints(self) -> Sequence[Constraint]: ...  # noqa: D102

    def default(self) -> dict[str, int]:
        """Reasonable values of its knobs."""

    def apply(self, schedule: s_tir.Schedule, choice: Choice) -> None:
        """Raises tvm.s_tir.ScheduleError where TVM refuses."""
