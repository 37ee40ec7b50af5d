"""Figures about trials that need no model: the best so far, strategies compared, why trials failed."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..records.store import Record
from .collect import Run

_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")


def best_so_far(trials: Iterable[Record]) -> list[float]:
    """After each trial the best ratio against ATen until then; 0 as long as none was ok."""
    return list(itertools.accumulate((r.ratio for r in trials), max))


@dataclass(frozen=True)
class Curve:
    """How a strategy went on: each of its runs, and over them the median and quartiles of the best so far.

    The runs may differ in length; the median goes as far as the shortest, for beyond it would be one of fewer runs.
    """

    strategy: str
    runs: list[list[float]]
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


def curves(runs: Sequence[Run]) -> list[Curve]:
    """One a strategy, in the order in which they appear."""
    by_strategy: dict[str, list[list[float]]] = {}
    for run in runs:
        by_strategy.setdefault(run.strategy, []).append(best_so_far(run.trials))
    found = []
    for strategy, lines in by_strategy.items():
        shared = np.array([line[: min(map(len, lines))] for line in lines])
        low, median, high = np.quantile(shared, (0.25, 0.5, 0.75), axis=0)
        found.append(Curve(strategy, lines, low, median, high))
    return found


@dataclass(frozen=True)
class Failure:
    """Trials that failed for reasons which differ only in their numbers; ``reason`` is the first one's."""

    status: str
    reason: str
    count: int
    kinds: int  # how many different texts


def failures(trials: Iterable[Record]) -> list[Failure]:
    """By status and reason, the most frequent first."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in trials:
        if record.status != "ok":
            reason = record.reason or ""
            found.setdefault((record.status, _NUMBER.sub("0", reason)), []).append(reason)
    counted = [Failure(status, texts[0], len(texts), len(set(texts))) for (status, _), texts in found.items()]
    return sorted(counted, key=lambda f: (-f.count, f.status, f.reason))


def statuses(trials: Iterable[Record]) -> dict[str, int]:
    """How many trials ended in each way, the most frequent first."""
    return dict(Counter(r.status for r in trials).most_common())
