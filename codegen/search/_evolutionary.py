"""TVM's own evolutionary search, over TVM's own space, behind the interface of a strategy.

The search, its cost model (XGBoost over features of each store; random until it has 100 trials) and all parameters
are TVM's defaults, those of ``tune_tir``. A score, the factor by which a choice is faster than ATen, becomes a time:
its reciprocal, as the model and the database only compare times of one workload; a score of 0 is a failed run.

TVM hands out batches of up to 64 candidates. They are proposed one after the other, and when all of a batch are, TVM is
told what was observed and asked for the next. What is known already is left out. After a batch in which all was known,
where TVM would try four more, random choices stand in: little is left.

A search that resumes shows TVM all trials, so that they seed its populations and its cost model, but it does not draw
the same random numbers again: TVM's states can't be saved, and its threads share them out as they come.
"""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from typing import TYPE_CHECKING

from tvm.s_tir import meta_schedule as ms

from ..errors import CodegenError
from ..spaces.space import Choice
from ._explorer import Explorer
from .strategy import Trial, identity

if TYPE_CHECKING:
    from ..spaces.metaschedule import MetaScheduleSpace

# TVM counts trials; the search ends elsewhere.
ENDLESS = 1 << 30
# What TVM records for a run that failed.
FAILED_SECONDS = 1e10

logger = logging.getLogger(__name__)


class TvmEvolution(Explorer):
    """See the module."""

    space: MetaScheduleSpace

    def __init__(
        self,
        space: MetaScheduleSpace,
        seed: int,
        batch: int = 64,
        search: ms.SearchStrategy | None = None,
        cost_model: ms.CostModel | None = None,
        threads: int | None = None,
    ) -> None:
        """Another ``batch``, ``search`` or ``cost_model`` than TVM's defaults makes it another algorithm.

        ``threads``: of TVM's search; by default one for each core.

        Raises:
            CodegenError: XGBoost is not installed.
        """
        super().__init__(space, seed)
        threads = threads or os.cpu_count() or 1
        try:
            self._cost_model = cost_model or ms.CostModel.create("xgb", num_tuning_cores=threads, tree_method="auto")
        except ModuleNotFoundError as error:
            raise CodegenError(f"TVM's cost model needs {error.name}: pip install 'tvmops[tune]'") from None
        self._database = ms.database.MemoryDatabase()
        self._context = space.context(
            1 + seed % (2**31 - 2), threads, search or ms.SearchStrategy.create("evolutionary")
        )
        self._workload = self._database.commit_workload(self._context.mod)
        self._context.pre_tuning(
            ENDLESS,
            batch,
            self._context.generate_design_space(),
            self._database,
            self._cost_model,
        )
        self._queue: deque[dict[str, int]] = deque()
        self._candidates: dict[tuple[tuple[str, int], ...], ms.MeasureCandidate] = {}
        self._untold: list[Trial] = []
        self._batches = 0
        self._useful = True  # the last batch had something that was not known

    def _pick(self, rng: random.Random) -> Choice | None:
        while True:
            while self._queue:
                choice = self._queue.popleft()
                if self.is_fresh(choice):
                    self._useful = True
                    return choice
            if not self._useful:
                return None
            self._tell()
            self._ask()

    def _learn(self, trial: Trial, rng: random.Random) -> None:
        self._untold.append(trial)

    def _ask(self) -> None:
        """The next batch of TVM's."""
        self._batches += 1
        self._useful = False
        # None where TVM finds no population.
        for candidate in self._context.generate_measure_candidates() or ():
            try:
                choice = self.space.choice_of(candidate.sch)
            except CodegenError as error:  # a mutator did what no knob stands for
                logger.warning("a candidate of TVM's search is left out: %s", error)
                continue
            self._candidates[identity(choice)] = candidate
            self._queue.append(choice)

    def _tell(self) -> None:
        """What was observed since."""
        candidates, results = [], []
        for trial in self._untold:
            candidate = self._candidate(trial.choice)
            if candidate is None:
                continue
            seconds = [1 / trial.score] if trial.score > 0 else None
            record = ms.database.TuningRecord(
                candidate.sch.trace,
                self._workload,
                seconds or [FAILED_SECONDS],
                self._context.target,
                candidate.args_info,
            )
            self._database.commit_tuning_record(record)
            candidates.append(candidate)
            results.append(ms.runner.RunnerResult(seconds, None if seconds else "failed"))
        self._untold.clear()
        if candidates:
            self._cost_model.update(self._context, candidates, results)
            self._context.notify_runner_results(candidates, results)

    def _candidate(self, choice: Choice) -> ms.MeasureCandidate | None:
        """As TVM proposed it, or, of a trial that it did not propose, made again; None if it can't be scheduled."""
        known = self._candidates.pop(identity(choice), None)
        if known is not None:
            return known
        try:
            schedule = self.space.schedule(choice)
        except Exception as error:
            logger.warning("TVM's search is not told of %s: %s", dict(choice), error)
            return None
        return ms.MeasureCandidate(schedule, ms.arg_info.ArgInfo.from_entry_func(schedule.mod, remove_preproc=True))

    def _figures(self) -> dict[str, int]:
        return {"batches": self._batches}
