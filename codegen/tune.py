"""A search: propose, measure, record, in steps, until trials or minutes are spent; then the winner's plan."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import search
from .errors import CodegenError
from .measure.measurer import ROUNDS, Measurer, Outcome
from .records import store
from .search.economy import NearBad, Patience
from .search.strategy import Trial, identity
from .spaces.space import Choice, Space, broken
from .target import Target
from .workload import Workload

# So many of the best are measured again at the end: the best of many noisy measurements is often only a lucky one.
FINALISTS = 3
FINAL_ROUNDS = 3 * ROUNDS
# So often a strategy is asked again in place of what was refused.
TURNS = 3


class PlanningMeasurer(Measurer, Protocol):
    """A measurer that can also tell where a kernel wins."""

    def plan(self, choice: Choice) -> dict[str, Any]:
        """``status``, and ``plan`` and ``ratios`` or ``reason``; see ``measure/plan.py``."""


@dataclass
class Search:
    """A search over the schedules of a workload on a target. Every trial is on disk before the next one starts.

    What was measured on this machine before counts as if it had been now, and is not measured again: the records in
    ``path``, and those in ``elsewhere``, of the same workload, target, space and machine (its torch and TVM included: a
    score is relative to ATen's time).
    """

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
    prune: NearBad | None = None  # what not to try as long as there is something else
    elsewhere: Sequence[Path] = ()  # other record files
    records: list[store.Record] = field(init=False)  # that count, older ones first

    def __post_init__(self) -> None:
        self._strategy = search.load(self.strategy_name, self.space, self.seed, **self.options)
        self._held: list[Choice] = []  # refused so far
        files = dict.fromkeys(path.resolve() for path in (*self.elsewhere, self.path))
        found = [r for path in files for r in store.matching(store.read(path), self.workload, self.target.name)]
        self.records = [r for r in found if self._counts(r)]
        for record in self.records:
            self._strategy.observe(Trial(record.knobs, record.ratio))

    def _counts(self, record: store.Record) -> bool:
        """Whether a record says something about this space, which may have been another one, on this machine."""
        here = record.space == self.space.name and record.machine == self.machine
        return here and not broken(self.space, record.knobs)

    @property
    def measured(self) -> int:
        """How many choices have been measured, now or earlier."""
        return len(self.scores)

    @property
    def scores(self) -> list[float]:
        """Of each choice that was measured, in the order of their first trials: how many times faster than ATen."""
        first: dict[tuple[tuple[str, int], ...], float] = {}
        for record in self.records:
            first.setdefault(identity(record.knobs), record.ratio)
        return list(first.values())

    @property
    def best(self) -> store.Record | None:
        """The fastest so far."""
        return store.best(self.records, self.workload, self.target.name)

    @property
    def done(self) -> bool:
        """Whether ``patience`` is at its end."""
        return self.patience is not None and self.patience.done(self.scores)

    def step(self, n: int) -> Iterator[store.Record]:
        """Measures up to ``n`` choices that were not measured before; fewer only where no others are left.

        A strategy sees the outcomes of a batch before it proposes the next one; a batch is as large as it says.

        Returns:
            The records, each once it is written. The caller may stop in between.

        Raises:
            CodegenError: no choice meets the constraints, or a record can't be written.
        """
        while n > 0:
            choices = self._next(min(n, self._strategy.batch))
            if not choices:
                self._explain_nothing()
                return
            for choice, outcome in zip(choices, self.measurer.measure_all(choices), strict=True):
                yield self._keep(choice, outcome)
            n -= len(choices)

    def run(self, trials: int, minutes: float | None, report: Callable[[store.Record], None]) -> None:
        """Goes on until ``trials`` choices are measured, counting those of earlier runs, the space is exhausted, or
        ``patience`` is at its end.

        Raises:
            CodegenError: no choice meets the constraints, or a record can't be written.
        """
        deadline = None if minutes is None else time.monotonic() + 60 * minutes

        def over() -> bool:
            return self.done or (deadline is not None and time.monotonic() >= deadline)

        if not over():
            for record in self.step(trials - self.measured):
                report(record)
                if over():
                    break

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
        again = list(zip(finalists, self.measurer.measure_all([r.knobs for r in finalists], FINAL_ROUNDS), strict=True))
        winner, outcome = max(again, key=lambda pair: pair[1].ratio)
        if not outcome.ratio:
            return None
        answer = self.measurer.plan(winner.knobs)
        if answer["status"] != "ok":
            raise CodegenError(f"the plan of the winner could not be measured: {answer['reason']}")
        record = self._keep(winner.knobs, outcome, plan=answer["plan"], ratios=answer["ratios"])
        report(record)
        return record

    def _next(self, n: int) -> list[Choice]:
        """Up to ``n`` choices to measure: the space's default first, as it is the one to beat; none if all are known.

        What is refused is held back. It is measured after all where nothing better is proposed, so that a search never
        starves and an exhaustive one stays so.
        """
        known = {identity(r.knobs) for r in self.records}
        trials = [Trial(r.knobs, r.ratio) for r in self.records]
        taken: dict[tuple[tuple[str, int], ...], Choice] = {}
        default = self.space.default()
        if not broken(self.space, default) and identity(default) not in known:
            taken[identity(default)] = default
        for _ in range(TURNS):
            proposed = self._strategy.propose(n - len(taken))
            for choice in proposed:
                if self.prune and self.prune.refuses(choice, trials):
                    self._held.append(choice)
                elif identity(choice) not in known:
                    taken[identity(choice)] = choice
            if len(taken) >= n or not proposed:
                break
        if not taken and self.prune:
            held = [c for c in self._held if identity(c) not in known]
            released = self.prune.keep(held, trials)[:n]
            self._held = [c for c in held if c not in released]
            return released
        return list(taken.values())

    def _explain_nothing(self) -> None:
        """Raises an error where there was never anything to measure."""
        if self.records:
            return
        from .spaces.solver import Solver  # OR-tools, for this alone

        clash = "; ".join(Solver(self.space).clash())
        raise CodegenError(
            f"no choice of knobs meets the constraints of {self.workload.key} on {self.target.name}: {clash}"
        )

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
