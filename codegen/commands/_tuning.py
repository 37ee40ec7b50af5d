"""What ``tune`` and its parts share: how searches are set up from the options."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import models, search
from .. import tune as tuning
from ..errors import CodegenError
from ..measure import measurer
from ..measure.runner import Runner
from ..models import transfer as transferring
from ..models.features import Features
from ..pool import Pool
from ..records import SHIPPED, store
from ..search.economy import NearBad, Patience
from ..spaces.space import Space
from ..target import Target
from ..workload import Workload

# The default strategy, those that have a cost model, and which one they have if nothing is said.
DEFAULT, MODELLED, DEFAULT_MODEL = "constrained-genetic", ("constrained-genetic", "metaschedule"), "xgboost-rank"
# A trial that failed is bad, and so is one with less than so much of the best score. Higher values cost more than they
# gain: with one of 0.5, walks over neighbours (annealing, qlearning) found less in their first 64 trials.
BAD = 0.25
# What these need, and the strategy that does without.
NEEDED, WITHOUT = ("ortools", "xgboost"), "genetic"


def strategy_of(name: str | None) -> tuple[str, str]:
    """The strategy of that name, or the best whose libraries are installed; and, in words, why it is that one.

    Raises:
        CodegenError: the name is not known.
    """
    if name is not None:
        if name not in search.all_strategies():
            raise CodegenError(f"unknown strategy {name!r}; known: {', '.join(search.all_strategies())}")
        return name, "as asked"
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        return WITHOUT, f"{DEFAULT} needs {', '.join(missing)}: pip install 'tvmops[tune]'"
    return DEFAULT, "the default"


@dataclass(frozen=True)
class Settings:
    """What the searches of a run have in common."""

    target: Target
    machine: dict[str, Any]  # as records tell it
    strategy: str
    cost_model: str | None
    features: str  # of the cost model
    transfer: bool
    seed: int
    records: Path  # the folder
    threads: list[int]
    limit: float  # seconds for checking and timing a choice
    patience: Patience | None
    prune: bool
    aten: bool  # time ATen beside every candidate
    flush: bool  # empty the caches before each sample
    runner: Callable[[], Runner]

    def __post_init__(self) -> None:
        if self.cost_model is not None and self.strategy not in MODELLED:
            raise CodegenError(f"--cost-model is for {' and '.join(MODELLED)}; {self.strategy} has no cost model")
        if self.features not in models.FEATURES:
            raise CodegenError(f"unknown features {self.features!r}; known: {', '.join(models.FEATURES)}")
        store.check_writable(self.path)

    @property
    def path(self) -> Path:
        """Of the record file."""
        return store.file_of(self.records, self.target.name)

    def search(self, pool: Pool, workload: Workload, space: Space) -> tuning.Search:
        """A search of a workload, which measures by a measurer of ``pool``.

        Raises:
            CodegenError: the strategy or the cost model can't be made, or records can't be read.
        """
        own = self.strategy == space.name  # TVM's search over TVM's space, with TVM's model
        options: dict[str, Any] = {}
        if self.strategy in MODELLED and not own:
            options["features"] = models.features_of(self.features, space)
            options["model"] = self._model(workload, space, options["features"])
        local = pool.measurer(
            lambda: measurer.LocalMeasurer(
                workload,
                self.target,
                space.name,
                self.threads,
                seed=self.seed,
                limit=self.limit,
                aten=self.aten,
                flush=self.flush,
                runner=self.runner(),
            )
        )
        return tuning.Search(
            workload,
            self.target,
            space,
            self.strategy,
            self.seed,
            self.path,
            self.machine,
            local,
            options,
            self.patience,
            NearBad(fraction=BAD) if self.prune else None,
            [*self._files(), store.file_of(SHIPPED, self.target.name)],
        )

    def _files(self) -> list[Path]:
        return sorted(self.records.glob("*.jsonl"))

    def _model(self, workload: Workload, space: Space, features: Features) -> models.CostModel:
        """A cost model, which may start from the records of other workloads and targets."""
        name = self.cost_model or DEFAULT_MODEL
        if not self.transfer:
            return models.load(name, self.seed)
        others = [
            record
            for file in self._files()
            for record in store.read(file)
            if record.workload != workload.key or file != self.path
        ]
        return transferring.transfer(name, space, others, self.seed, features)
