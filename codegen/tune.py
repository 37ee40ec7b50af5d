"""A search: propose, measure, record, until the trials or the minutes are spent; then the winner's plan."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import search
from .errors import CodegenError
from .measure.measurer import ROUNDS, Measurer, Outcome
from .records import store
from .search.economy import Patience
from .search.strategy import Trial, identity
from .spaces.space import Choice, Space, broken
from .target import Target
from .workload import Workload

# So many of the best are measured again at the end: the best of many noisy measurements is often only a lucky one.
FINALISTS = 3
FINAL_ROUNDS = 3 * ROUNDS


class PlanningMeasurer(Measurer, Protocol):
    """A measurer that can also tell where a kernel wins."""

    def plan(self, choice: Choice) -> dict[str, Any]:
        """``status``, and ``plan`` and ``ratios`` or ``reason``; see ``measure/plan.py``."""


@dataclass
class Search:
    """A search over the schedules of a workload on a target. Every trial is on disk before the next one starts."""

    workload: Workload
    target: Target
    space: Space
    strategy_name: str
    seed: int
    path: Path  # of the record file
    machine: dict[str, Any]
    measurer: PlanningMeasurer
    options: Mapping[str, Any] = field(default_factory=dict)  # of the strategy, such as its cost model
    patience: Patience | None = None  # when to stop before the trials are spent
    records: list[store.Record] = field(init=False)  # of this workload and target, older ones first

    def __post_init__(self) -> None:
        self._strategy = search.load(self.strategy_name, self.space, self.seed, **self.options)
        found = store.matching(store.read(self.path), self.workload, self.target.name)
        # A record made when the space was another one says nothing about this space.
        self.records = [r for r in found if not broken(self.space, r.knobs)]
        for record in self.records:
            self._strategy.observe(Trial(record.knobs, record.ratio))

    @property
    def measured(self) -> int:
        """How many choices have been measured, now or earlier."""
        return len({identity(r.knobs) for r in self.records})

    @property
    def best(self) -> store.Record | None:
        """The fastest so far."""
        return store.best(self.records, self.workload, self.target.name)

    def run(self, trials: int, minutes: float | None, report: Callable[[store.Record], None]) -> None:
        """Goes on until ``trials`` choices are measured, counting those of earlier runs, the space is exhausted, or
        ``patience`` is at its end.

        Raises:
            CodegenError: no choice meets the constraints, or a record can't be written.
        """
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        while self.measured < trials and (deadline is None or time.monotonic() < deadline):
            if self.patience and self.patience.done([r.ratio for r in self.records]):
                break
            choice = self._next()
            if choice is None:
                break
            report(self._keep(choice, self.measurer.measure(choice)))
        if not self.records:
            from .spaces.solver import Solver  # OR-tools, for this alone

            clash = "; ".join(Solver(self.space).clash())
            raise CodegenError(
                f"no choice of knobs meets the constraints of {self.workload.key} on {self.target.name}: {clash}"
            )

    def crown(self, report: Callable[[store.Record], None] = lambda _: None) -> store.Record | None:
        """Measures the best again, with more rounds, and the winner's plan; the record that it adds is the one to ship.

        Returns:
            That record; None where nothing is worth one, or the last winner is still the best.
        """
        ranked: dict[tuple[tuple[str, int], ...], store.Record] = {}
        for record in sorted(self.records, key=lambda r: -r.ratio):
            if record.status == "ok":
                ranked.setdefault(identity(record.knobs), record)
        finalists = list(ranked.values())[:FINALISTS]
        last = max((i for i, r in enumerate(self.records) if r.plan is not None), default=-1)
        if not any(r.status == "ok" for r in self.records[last + 1 :]):
            return None
        again = [(r, self.measurer.measure(r.knobs, FINAL_ROUNDS)) for r in finalists]
        winner, outcome = max(again, key=lambda pair: pair[1].ratio)
        if not outcome.ratio:
            return None
        answer = self.measurer.plan(winner.knobs)
        if answer["status"] != "ok":
            raise CodegenError(f"the plan of the winner could not be measured: {answer['reason']}")
        record = self._keep(winner.knobs, outcome, plan=answer["plan"], ratios=answer["ratios"])
        report(record)
        return record

    def _next(self) -> Choice | None:
        default = self.space.default()
        known = {identity(r.knobs) for r in self.records}
        if not broken(self.space, default) and identity(default) not in known:
            return default  # the one to beat comes first
        return next(iter(self._strategy.propose(1)), None)

    def _keep(self, choice: Choice, outcome: Outcome, **more: Any) -> store.Record:
        record = store.Record(
            workload=self.workload.key,
            target=self.target.name,
            space=self.space.name,
            knobs=dict(choice),
            machine=self.machine,
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seed=self.seed,
            strategy=self.strategy_name,
            trial=len(self.records),
            **{**vars(outcome), "points": [rounded(p) for p in outcome.points]},
            **more,
        )
        store.append(self.path, record)
        self.records.append(record)
        self._strategy.observe(Trial(record.knobs, record.ratio))
        return record


def rounded(point: dict[str, Any]) -> dict[str, Any]:
    """A point as records keep it: times to four digits."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in point.items()}


def ship(directory: Path, shipped: Path) -> list[store.Record]:
    """Takes the best record with a plan of each workload in ``directory`` into the shipped ones, in place of others.

    Returns:
        What was taken.
    """
    taken = []
    for path in sorted(directory.glob("*.jsonl")):
        records = store.read(path)
        keys = dict.fromkeys((r.workload, r.target) for r in records)
        winners = [store.best(records, Workload.parse(key), target) for key, target in keys]
        new = {(r.workload, r.target): r for r in winners if r is not None and r.plan is not None}
        if new:
            destination = shipped / path.name
            old = {(r.workload, r.target): r for r in store.read(destination, strict=True)}
            store.rewrite(destination, [record for _, record in sorted({**old, **new}.items())])
            taken += list(new.values())
    return taken
