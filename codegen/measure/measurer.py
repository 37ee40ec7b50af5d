"""One trial after the other: build, check, time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import tvm

from ..errors import CodegenError
from ..spaces.space import Choice
from ..target import Target
from ..worker import Worker, WorkerError
from ..workload import Workload

_PACKAGE = __name__.rpartition(".")[0]
# Seconds that a candidate may take to be built, and to be checked and timed.
BUILD_LIMIT, MEASURE_LIMIT = 120.0, 300.0
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
    """Tells of a choice what it is worth."""

    def measure(self, choice: Choice, rounds: int = ROUNDS) -> Outcome:
        """Never raises for what a candidate does."""

    def measure_all(self, choices: Sequence[Choice], rounds: int = ROUNDS) -> Iterator[Outcome]:
        """The outcomes of choices, in order, each as soon as it is known."""


@dataclass(frozen=True)
class Machine:
    """Where measurements are taken."""

    about: dict[str, Any]  # as in a record
    targets: tuple[str, ...]  # that it runs, the best first


def this_machine() -> Machine:
    """Asks a helper process, so that this one needs neither torch nor the extension.

    Raises:
        CodegenError: tvmops can't be imported.
    """
    worker = Worker(f"{_PACKAGE}.child")
    try:
        answer = worker.call({"what": "about"}, MEASURE_LIMIT)
    except WorkerError as error:
        raise CodegenError(f"tvmops can't be imported here, build the extension first: {error}") from None
    finally:
        worker.close()
    return Machine({**answer["machine"], "tvm": tvm.__version__}, tuple(answer["targets"]))


def child(target: Target) -> Worker:
    """A process that judges candidates: ``child.py``.

    Only the target's own kernels may serve calls there; what the user set for their own models does not count.
    """
    env = {"TVMOPS_TARGET": target.name, "TVMOPS_MODE": "", "TVMOPS_PACK_PATH": "", "TVMOPS_CALIBRATION": "off"}
    return Worker(f"{_PACKAGE}.child", env)


class LocalMeasurer:
    """Measures on this machine. A context manager: leaving it ends the helpers and removes what they built."""

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
    ) -> None:
        self._workload, self._target, self._space = workload, target, space
        self._threads, self._seed, self._limit = sorted(set(threads)), seed, limit
        self._directory = tempfile.TemporaryDirectory(prefix="tvmops-")
        self._builder = Worker(f"{_PACKAGE}.build")
        self._build = build or self._build_apart

    def __enter__(self) -> LocalMeasurer:
        return self

    def __exit__(self, *_: object) -> None:
        self._builder.close()
        self._directory.cleanup()

    def measure(self, choice: Choice, rounds: int = ROUNDS) -> Outcome:
        """Builds, checks and times a choice; whatever goes wrong with it is its status."""
        try:
            answer = self._ask({"what": "measure", "rounds": rounds}, choice, self._limit)
        except WorkerError as error:
            return Outcome(error.status, str(error))
        except CodegenError as error:
            return Outcome("failed", str(error))
        if answer["status"] == "ok" and not math.isfinite(answer["seconds"]):
            return Outcome("failed", "no time was measured")
        return Outcome(**answer)

    def measure_all(self, choices: Sequence[Choice], rounds: int = ROUNDS) -> Iterator[Outcome]:
        """The outcomes of choices, in order, each as soon as it is known."""
        for choice in choices:
            yield self.measure(choice, rounds)

    def plan(self, choice: Choice) -> dict[str, Any]:
        """The answer of the child about the plan of a choice: ``status``, and ``plan`` and ``ratios`` or ``reason``."""
        try:
            return self._ask({"what": "plan"}, choice, PLAN_LIMIT)
        except WorkerError as error:
            return {"status": error.status, "reason": str(error)}

    def _ask(self, request: dict[str, Any], choice: Choice, limit: float) -> dict[str, Any]:
        pack = self._build(choice)
        judge = child(self._target)  # a fresh one: what a candidate breaks is gone with it
        try:
            common = {"workload": self._workload.key, "knobs": dict(choice), "pack": str(pack), "seed": self._seed}
            return judge.call({**request, **common, "threads": self._threads}, limit)
        finally:
            judge.close()

    def _build_apart(self, choice: Choice) -> Path:
        request = {
            "workload": self._workload.key,
            "target": self._target.name,
            "space": self._space,
            "knobs": dict(choice),
        }
        answer = self._builder.call({**request, "directory": self._directory.name}, BUILD_LIMIT)
        if answer["status"] != "ok":
            raise WorkerError(answer["status"], f"build: {answer['reason']}")
        return Path(answer["pack"])
