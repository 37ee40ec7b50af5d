"""Trials: build, check, time. A batch is built first, several at a time; then one after the other is judged."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import CodegenError
from ..spaces.space import Choice
from ..target import Target
from ..worker import WorkerError
from ..workload import Workload
from . import objectives
from .builders import BUILD_LIMIT, Builders
from .local import LocalRunner
from .runner import Machine, Runner

__all__ = ["BUILD_LIMIT", "LocalMeasurer", "Machine", "Measurer", "Outcome", "this_machine"]

# Seconds that a candidate may take to be checked and timed.
MEASURE_LIMIT = 300.0
PLAN_LIMIT = 3600.0  # the plan of a kernel for all sizes has hundreds of buckets
ROUNDS = 5
# How often the fastest candidate is timed again, and by which fraction its time may move.
RECHECK, DRIFT = 16, 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate; the fields are those of a :class:`.records.store.Record`."""

    status: str
    reason: str | None = None
    seconds: float | None = None
    aten_seconds: float | None = None
    error: float | None = None
    aten_error: float | None = None
    points: list[dict[str, Any]] = field(default_factory=list)
    spread: float | None = None
    noisy: bool | None = None
    workspace_bytes: int | None = None
    code_bytes: int | None = None
    joules: float | None = None

    @property
    def ratio(self) -> float:
        """How many times faster than ATen; 0 if it is not ok."""
        return self.aten_seconds / self.seconds if self.seconds and self.aten_seconds else 0.0


@dataclass(frozen=True)
class _Incumbent:
    """The fastest candidate so far, kept to be timed again."""

    choice: Choice
    pack: Path
    seconds: float


class AtenTimes:
    """ATen's seconds by case, from the last answer in which it was timed."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._seconds)

    def keep(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Takes over the times of points that have them."""
        self._seconds |= {self._case(p): p["aten_seconds"] for p in points}

    def add_to(self, answer: dict[str, Any]) -> None:
        """Completes an answer without ATen's times.

        Raises:
            KeyError: ATen was not timed in one of its cases.
        """
        for point in answer["points"]:
            point["aten_seconds"] = self._seconds[self._case(point)]
        answer["aten_seconds"] = statistics.geometric_mean(p["aten_seconds"] for p in answer["points"])

    @staticmethod
    def _case(point: Mapping[str, Any]) -> str:
        return json.dumps([sorted(point["sizes"].items()), point["layout"], point["threads"]])


class Measurer(Protocol):
    """Tells of choices what they are worth. Never raises for what a candidate does."""

    def measure(self, choice: Choice, rounds: int = ROUNDS) -> Outcome:
        """What became of one choice."""

    def measure_all(self, choices: Sequence[Choice], rounds: int = ROUNDS) -> Iterator[Outcome]:
        """What became of each, in order, and as soon as it is known. Nothing is built while something is timed."""

    def plan(self, choice: Choice) -> dict[str, Any]:
        """``status``, and ``plan`` and ``ratios`` or ``reason``; see ``measure/plan.py``."""


def this_machine() -> Machine:
    """Asks a helper process, so that this one needs neither torch nor the extension.

    Raises:
        CodegenError: tvmops can't be imported.
    """
    runner = LocalRunner()
    try:
        return runner.about()
    finally:
        runner.close()


class LocalMeasurer:
    """Builds here and judges by a runner. A context manager: leaving it ends the helpers and removes what they built.

    Args:
        space: the name of the space, see ``codegen/spaces``.
        threads: the thread counts to time with.
        seed: of the data.
        limit: seconds that checking and timing one choice may take.
        aten: whether every candidate is timed side by side with ATen, which takes about twice as long. Otherwise only
            the first one is, the incumbent whenever it is timed again, and what is measured with more than ``ROUNDS``
            rounds; the rest gets what was last measured of ATen.
        flush: whether the caches are emptied before each sample.
        recheck: after so many candidates, the fastest so far (the incumbent) is timed again. If its time moved by more
            than ``DRIFT``, the machine is not what it was: outcomes are ``noisy`` until that time stays the same.
        build: makes the pack of a choice, in this process; by default helper processes do.
        runner: runs the candidates, and is closed with the measurer; by default on this machine.
    """

    def __init__(
        self,
        workload: Workload,
        target: Target,
        space: str,
        threads: Sequence[int],
        *,
        seed: int = 0,
        limit: float = MEASURE_LIMIT,
        aten: bool = True,
        flush: bool = False,
        recheck: int = RECHECK,
        build: Callable[[Choice], Path] | None = None,
        runner: Runner | None = None,
    ) -> None:
        self._workload, self._limit = workload, limit
        self._common: dict[str, Any] = {"workload": workload.key, "seed": seed, "threads": sorted(set(threads))}
        self._common["flush"] = flush
        self._always, self._aten_times = aten, AtenTimes()
        self._recheck, self._judged, self._noisy = recheck, 0, False
        self._incumbent: _Incumbent | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="tvmops-")
        self._builders = Builders(workload, target, space, Path(self._directory.name))
        self._build = build
        self._runner = runner or LocalRunner(target)

    def __enter__(self) -> LocalMeasurer:
        return self

    def __exit__(self, *_: object) -> None:
        self._builders.close()
        self._runner.close()
        self._directory.cleanup()

    def measure(self, choice: Choice, rounds: int = ROUNDS) -> Outcome:
        """Builds, checks and times a choice; whatever goes wrong with it is its status."""
        (outcome,) = self.measure_all([choice], rounds)
        return outcome

    def measure_all(self, choices: Sequence[Choice], rounds: int = ROUNDS) -> Iterator[Outcome]:
        """Builds all choices, then judges one after the other, and yields each outcome as soon as it is known.

        Raises:
            CodegenError: the runner can't go on.
        """
        for choice, pack in zip(choices, self._packs(choices), strict=True):
            yield self._judge(choice, pack, rounds)
            self._discard(pack)

    def plan(self, choice: Choice) -> dict[str, Any]:
        """The answer of the child about the plan of a choice: ``status``, and ``plan`` and ``ratios`` or ``reason``."""
        (pack,) = self._packs([choice])
        try:
            if isinstance(pack, WorkerError):
                raise pack
            return self._runner.run(pack, {"what": "plan", "knobs": dict(choice), **self._common}, PLAN_LIMIT)
        except WorkerError as error:
            return {"status": error.status, "reason": str(error)}
        finally:
            self._discard(pack)

    def recheck(self) -> bool | None:
        """Times the incumbent again, side by side with ATen; None if there is none, or it can't be timed.

        Returns:
            Whether its time is still the same. If not, it is the new time that the next one is compared with, and what
            was measured of ATen before is forgotten.
        """
        known = self._incumbent
        if known is None:
            return None
        again = self._run(known.choice, known.pack, ROUNDS, check=False, aten=True)
        if again.status != "ok" or again.seconds is None:
            return None
        self._noisy = abs(again.seconds / known.seconds - 1) > DRIFT
        if self._noisy:
            self._aten_times = AtenTimes()
            self._incumbent = replace(known, seconds=again.seconds)
        self._aten_times.keep(again.points)
        return not self._noisy

    def _judge(self, choice: Choice, pack: Path | WorkerError, rounds: int) -> Outcome:
        if isinstance(pack, WorkerError):
            return Outcome(pack.status, str(pack))
        if self._judged and self._judged % self._recheck == 0:
            self.recheck()
        self._judged += 1
        outcome = self._run(choice, pack, rounds, check=True, aten=self._always or rounds > ROUNDS)
        if outcome.status != "ok" or outcome.seconds is None:
            return outcome
        if self._incumbent is None or outcome.seconds < self._incumbent.seconds:
            kept = Path(self._directory.name, "incumbent.so")
            shutil.copyfile(pack, kept)
            self._incumbent = _Incumbent(choice, kept, outcome.seconds)
        return replace(outcome, noisy=True) if self._noisy else outcome

    def _run(self, choice: Choice, pack: Path, rounds: int, *, check: bool, aten: bool) -> Outcome:
        """One candidate by the runner, and what it is found to be without running it."""
        side_by_side = aten or not self._aten_times
        request = {"what": "measure", "rounds": rounds, "check": check, "aten": side_by_side, "knobs": dict(choice)}
        try:
            answer = self._runner.run(pack, {**request, **self._common}, self._limit)
        except WorkerError as error:
            return Outcome(error.status, str(error))
        try:
            if answer["status"] != "ok":
                return Outcome(answer["status"], answer.get("reason", ""))
            return self._measured(answer, pack, side_by_side)
        except (KeyError, TypeError, ValueError) as error:  # a candidate may have written the answer
            return Outcome("failed", f"its answer is no measurement: {type(error).__name__}: {error}")

    def _measured(self, answer: dict[str, Any], pack: Path, side_by_side: bool) -> Outcome:
        if side_by_side:
            self._aten_times.keep(answer["points"])
        else:
            self._aten_times.add_to(answer)
        if not all(math.isfinite(answer[name]) and answer[name] > 0 for name in ("seconds", "aten_seconds")):
            return Outcome("failed", "no time was measured")
        return Outcome(**answer, code_bytes=objectives.code_bytes(pack))

    def _packs(self, choices: Sequence[Choice]) -> list[Path | WorkerError]:
        if self._build is None:
            return self._builders.build(choices)
        packs: list[Path | WorkerError] = []
        for choice in choices:
            try:
                packs.append(self._build(choice))
            except CodegenError as error:
                packs.append(WorkerError("failed", f"build: {error}"))
        return packs

    def _discard(self, pack: Path | WorkerError) -> None:
        """A search makes thousands of packs; only the leaves are of further use."""
        if self._build is None and isinstance(pack, Path):
            shutil.rmtree(pack.parent, ignore_errors=True)
