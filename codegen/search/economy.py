"""How a search spends fewer trials: when to stop, and what not to try."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..spaces.space import Choice
from .strategy import Trial

# How unlikely it has to be that a candidate has so many bad neighbours by chance.
CHANCE = 0.05


@dataclass(frozen=True)
class Patience:
    """Early stopping: the search is done when the last ``trials`` raised the best score by less than ``least_gain``.

    ``least_gain`` is a fraction of the best score before them: 0.01 is one percent; 0 counts any gain. As long as
    nothing succeeded it waits.
    """

    trials: int
    least_gain: float = 0.0

    def done(self, scores: Sequence[float]) -> bool:
        """Whether to stop after trials with these scores, in order."""
        if len(scores) <= self.trials:
            return False
        before = max(scores[: -self.trials])
        if before <= 0:
            return False
        after = max(scores[-self.trials :], default=0.0)
        return after <= before or after < before * (1 + self.least_gain)


@dataclass(frozen=True)
class NearBad:
    """Refuses candidates near bad ones: those with more bad trials around them than chance would put there.

    A trial is bad if it failed, or if its score is below ``fraction`` of the best. Around a candidate are the trials
    that differ from it in at most ``distance`` knobs. If so many of them are bad that fewer than one in twenty places
    would have as many by chance (one-sided binomial test with the share of bad trials overall), it is refused.
    """

    distance: int = 1
    fraction: float = 0.5

    def keep(self, candidates: Sequence[Choice], trials: Sequence[Trial]) -> list[Choice]:
        """The candidates that are not refused, in order; if all are, the one least suspicious.

        So a search never runs dry, and a space that is bad nearly everywhere is searched still.
        """
        suspicion = [self.probability(candidate, trials) for candidate in candidates]
        kept = [c for c, p in zip(candidates, suspicion, strict=True) if p >= CHANCE]
        if kept or not candidates:
            return kept
        return [candidates[max(range(len(candidates)), key=suspicion.__getitem__)]]

    def refuses(self, candidate: Choice, trials: Sequence[Trial]) -> bool:
        """Whether a candidate is near bad ones more than by chance."""
        return self.probability(candidate, trials) < CHANCE

    def probability(self, candidate: Choice, trials: Sequence[Trial]) -> float:
        """How probable it is that as many of the trials around a candidate, or more, are bad by chance."""
        best = max((trial.score for trial in trials), default=0.0)
        bad = [trial.score <= 0 or trial.score < self.fraction * best for trial in trials]
        around = [b for b, trial in zip(bad, trials, strict=True) if apart(candidate, trial.choice) <= self.distance]
        return _at_least(sum(around), len(around), sum(bad) / len(bad)) if around else 1.0


def apart(one: Choice, other: Choice) -> int:
    """In how many knobs two choices differ."""
    return sum(value != other[name] for name, value in one.items())


def _at_least(hits: int, draws: int, share: float) -> float:
    """The probability of so many hits or more among draws that each hit with probability ``share``."""
    terms: Iterable[float] = (
        math.comb(draws, k) * share**k * (1 - share) ** (draws - k) for k in range(hits, draws + 1)
    )
    return math.fsum(terms)
