"""Several objectives: what a trial costs besides time, the Pareto front, and a weighted score.

Less is better in all of them. A trial is on the front if no other is at least as good in everything and better in
something. The score is the weighted geometric mean of the objectives, each as a multiple of the fastest trial's: it
does not depend on the units, and half the time at twice the code is worth the same anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .errors import CodegenError
from .records.store import Record


@dataclass(frozen=True)
class Objective:
    """What is to be small: its name, its unit, and its value for a record that is ok; None where not measured."""

    name: str
    unit: str
    value: Callable[[Record], float | None]


def _field(name: str) -> Callable[[Record], float | None]:
    # Records of earlier versions lack the field.
    return lambda record: getattr(record, name, None)


OBJECTIVES = {
    objective.name: objective
    for objective in (
        # Not seconds: these drift with the clock, ATen's beside them does so too.
        Objective("time", "× ATen's", lambda record: 1 / record.ratio if record.ratio else None),
        Objective("code", "bytes", _field("code_bytes")),
        Objective("workspace", "bytes", _field("workspace_bytes")),
        Objective("energy", "J", _field("joules")),
    )
}


def weights_of(text: str) -> dict[str, float]:
    """``time=1,code=0.2`` as a mapping.

    Raises:
        CodegenError: an objective is not known or given twice, or a weight is no positive number.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in OBJECTIVES:
            raise CodegenError(f"unknown objective {name!r}; known: {', '.join(OBJECTIVES)}")
        if name in weights:
            raise CodegenError(f"objective {name!r} is given twice")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise CodegenError(f"not a weight: {part.strip()!r} (expected NAME=NUMBER with a positive number)")
        weights[name] = weight
    return weights


def values(record: Record, names: Sequence[str]) -> tuple[float, ...] | None:
    """The objectives of a record; None unless it is ok and all of them were measured."""
    if record.status != "ok":
        return None
    found = [OBJECTIVES[name].value(record) for name in names]
    return None if any(v is None for v in found) else tuple(float(v) for v in found if v is not None)


def front(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """The records that no other dominates, by the first objective; those equal in all are all on it."""
    known = [(v, r) for r in records if (v := values(r, names)) is not None]
    kept = [(v, r) for v, r in known if not any(_dominates(other, v) for other, _ in known)]
    return [r for _, r in sorted(kept, key=lambda pair: pair[0])]


def scores(records: Sequence[Record], weights: Mapping[str, float]) -> list[float | None]:
    """Of each record; 1 for the fastest, less is better. None where an objective was not measured.

    What needs no bytes at all counts as one byte: a geometric mean knows no zero.
    """
    known = [values(r, ["time", *weights]) for r in records]
    fastest = min((v for v in known if v is not None), default=None)
    if fastest is None:
        return [None] * len(records)

    def score(found: tuple[float, ...]) -> float:
        logs = zip(weights.values(), found[1:], fastest[1:], strict=True)
        mean = sum(w * math.log(_at_least(v) / _at_least(base)) for w, v, base in logs) / sum(weights.values())
        return math.exp(mean)

    return [None if v is None else score(v) for v in known]


def best(records: Sequence[Record], weights: Mapping[str, float]) -> tuple[Record, float] | None:
    """The record of the least score, and that score; None where no record has all objectives."""
    scored = [(s, i) for i, s in enumerate(scores(records, weights)) if s is not None]
    if not scored:
        return None
    score, at = min(scored)
    return records[at], score


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _at_least(value: float) -> float:
    return value if value > 0 else 1.0
