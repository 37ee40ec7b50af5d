"""The best of each search timed again, all in the same way: by the judge of candidates, with more rounds."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codegen import spaces
from codegen.measure.build import build
from codegen.measure.local import LocalRunner
from codegen.target import Target
from codegen.workload import Workload

ROUNDS, TURNS = 15, 4
LIMIT = 120.0


def measure(
    workload: Workload, target: Target, wanted: Sequence[tuple[str, Mapping[str, int]]], report: Callable[[], None]
) -> list[dict[str, Any]]:
    """Of each (space, knobs): seconds, how many times faster than ATen, and the error as a multiple of ATen's.

    In turns over all of them. ``first`` is the ratio in the first turn, by which a winner is chosen among several; the
    others are medians over the turns after that, which therefore flatter nobody.
    """
    runner = LocalRunner(target)
    taken: list[list[dict[str, Any]]] = [[] for _ in wanted]
    errors: list[float | None] = []
    with tempfile.TemporaryDirectory(prefix="tvmops-") as directory:
        try:
            packs = []
            for i, (space, knobs) in enumerate(wanted):
                packs.append(
                    build(workload, target, spaces.find(workload, target, space), knobs, Path(directory, str(i)))
                )
            common = {"workload": workload.key, "knobs": {}, "seed": 0, "threads": [1]}
            for pack in packs:
                checked = runner.run(pack, {"what": "measure", "rounds": 1, **common}, LIMIT)
                errors.append(checked["error"] / checked["aten_error"] if checked["status"] == "ok" else None)
            for _ in range(TURNS):
                for pack, into in zip(packs, taken, strict=True):
                    into.append(
                        runner.run(pack, {"what": "measure", "rounds": ROUNDS, "check": False, **common}, LIMIT)
                    )
                    report()
        finally:
            runner.close()
    found = []
    for (space, knobs), (first, *answers), error in zip(wanted, taken, errors, strict=True):
        times = {
            "first": first["aten_seconds"] / first["seconds"],
            "ratio": statistics.median(a["aten_seconds"] / a["seconds"] for a in answers),
            "seconds": statistics.median(a["seconds"] for a in answers),
        }
        found.append({"space": space, "knobs": dict(knobs), **times, "error": error})
    return found
