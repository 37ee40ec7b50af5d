"""Trials: build, check, time. A batch is built first, several at a time; then one after the other is judged."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import CodegenError
from ..spaces.space import Choice
from ..target import Target
from ..worker import WorkerError
from ..workload import Workload
from .builders import BUILD_LIMIT, Builders
from .local import LocalRunner
from .runner import Machine, Runner

__all__ = ["BUILD_LIMIT", "LocalMeasurer", "Machine", "Measurer", "Outcome", "this_machine"]

# Seconds that a candidate may take to be checked and timed.
MEASURE_LIMIT = 300.0
PLAN_LIMIT = 3600.0  # the plan of a kernel for all sizes has hundreds of buckets
ROUNDS = 5


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate; times are geometric means, in seconds a call."""

    status: str
    reason: str | None = None
    seconds: float | None = None
    aten_seconds: float | None = None
    error: float | None = None
    aten_error: float | None = None
    points: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times faster than ATen; 0 if it is not ok."""
        return self.aten_seconds / self.seconds if self.seconds and self.aten_seconds else 0.0


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
        build: Callable[[Choice], Path] | None = None,
        runner: Runner | None = None,
    ) -> None:
        self._workload, self._limit = workload, limit
        self._common = {"workload": workload.key, "seed": seed, "threads": sorted(set(threads))}
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

    def _judge(self, choice: Choice, pack: Path | WorkerError, rounds: int) -> Outcome:
        try:
            if isinstance(pack, WorkerError):
                raise pack
            request = {"what": "measure", "rounds": rounds, "knobs": dict(choice), **self._common}
            answer = self._runner.run(pack, request, self._limit)
        except WorkerError as error:
            return Outcome(error.status, str(error))
        if answer["status"] == "ok" and not math.isfinite(answer["seconds"]):
            return Outcome("failed", "no time was measured")
        return Outcome(**answer)

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
