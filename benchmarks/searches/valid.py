"""The share of candidates that build, run and are right, by how they are drawn."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from benchmarks.searches.series import SPACE
from codegen import spaces
from codegen.measure.measurer import LocalMeasurer
from codegen.spaces.solver import Solver
from codegen.spaces.space import broken
from codegen.target import Target
from codegen.workload import Workload

LIMIT = 20.0


def count(workload: Workload, target: Target, wanted: int) -> dict[str, Any]:
    """By kind, how many candidates ended in each status; ``kept``: of those drawn blindly, how many are valid."""
    space = spaces.find(workload, target, SPACE)
    rng, solver = random.Random(0), Solver(space)
    solved = [solver.sample(rng) for _ in range(wanted)]
    blind = [{knob.name: rng.choice(knob.values) for knob in space.knobs} for _ in range(wanted)]
    found: dict[str, Any] = {"kept": sum(not broken(space, choice) for choice in blind)}
    with LocalMeasurer(workload, target, SPACE, [1], limit=LIMIT, aten=False) as measurer:
        for kind, choices in (("solved", [c for c in solved if c is not None]), ("blind", blind)):
            found[kind] = dict(Counter(o.status for o in measurer.measure_all(choices, rounds=1)))
    return found
