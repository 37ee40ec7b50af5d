"""Results of searches as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from statistics import geometric_mean, median
from typing import Any

from benchmarks.searches.series import STRATEGIES, TVM, best_of

OURS = "constrained-genetic"
FIRST, ALL = 16, 64


class Results:
    """Runs and what their best came to."""

    def __init__(self, lines: Sequence[dict[str, Any]]) -> None:
        self.runs = [line for line in lines if "series" in line]
        self.valid = {line["workload"]: line["valid"] for line in lines if "valid" in line}
        self.workloads = list(dict.fromkeys(run["workload"] for run in self.runs))
        self._finals: dict[tuple[str, str], dict[str, Any]] = {}
        for line in lines:
            for final in line.get("finals", ()):
                self._finals[line["workload"], self._name(final["space"], final["knobs"])] = final

    @staticmethod
    def _name(space: str, knobs: dict[str, int]) -> str:
        return json.dumps([space, sorted(knobs.items())])

    def of(self, workload: str, series: str) -> list[dict[str, Any]]:
        """The runs of a series, one a seed."""
        return [r for r in self.runs if r["workload"] == workload and r["series"] == series]

    def finals(self, workload: str, series: str, trials: int) -> list[dict[str, Any]]:
        """The best of so many trials, timed again, by seed."""
        found = []
        for run in self.of(workload, series):
            names = [(workload, self._name(run["space"], knobs)) for knobs in best_of(run, trials)]
            finals = [self._finals[name] for name in names if name in self._finals]
            if finals:
                found.append(max(finals, key=lambda final: final["first"]))
        return found

    def seconds(self, workload: str, series: str, trials: int) -> float | None:
        """The median over seeds."""
        found = [f["seconds"] for f in self.finals(workload, series, trials)]
        return median(found) if found else None

    def wall(self, workload: str, series: str) -> float | None:
        """Seconds a trial, the median over seeds; None where trials are so few that most of the time is not theirs."""
        found = [r["wall"] / len(r["trials"]) for r in self.of(workload, series) if len(r["trials"]) >= FIRST]
        return median(found) if found else None

    def trials(self, workload: str, series: str) -> float | None:
        """How many there were, the median over seeds."""
        found = [len(r["trials"]) for r in self.of(workload, series)]
        return median(found) if found else None


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def _text(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v]
    return geometric_mean(known) if known else None


def _short(workload: str) -> str:
    return workload.replace("float32;", "")


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """All tables."""
    r = Results(lines)
    parts = [_against_tvm(r), _strategies(r), _validity(r)]
    return "\n\n".join(part for part in parts if part)


def _against_tvm(r: Results) -> str:
    def row(w: str) -> tuple[list[str], list[float | None]]:
        tvm, ours, early = r.seconds(w, TVM, ALL), r.seconds(w, OURS, ALL), r.seconds(w, OURS, FIRST)
        finals = r.finals(w, OURS, ALL)
        aten = median(f["ratio"] for f in finals) if finals else None
        walls = r.wall(w, TVM), r.wall(w, OURS)
        ratios = [_ratio(tvm, ours), _ratio(tvm, early), _ratio(*walls), aten]
        texts = [_text(r.trials(w, TVM), ".0f"), *(_text(s and s * 1e6, ".1f") for s in (tvm, ours))]
        return [
            _short(w),
            *texts,
            *map(_text, ratios[:2]),
            *(_text(x, ".2f") for x in walls),
            *map(_text, ratios[2:]),
        ], ratios

    rows = [row(w) for w in r.workloads]
    means = [_mean(column) for column in zip(*(ratios for _, ratios in rows), strict=True)]
    last = ["geometric mean", "", "", "", *map(_text, means[:2]), "", "", *map(_text, means[2:])]
    header = [
        "workload", "TVM's trials", "TVM, µs", "ours, µs", "TVM / ours", "TVM / ours after 16", "TVM, s a trial",
        "ours, s a trial",
        "TVM / ours", "ATen / ours",
    ]  # fmt: skip
    return _rows(header, [*(texts for texts, _ in rows), last])


def _strategies(r: Results) -> str:
    """How far each strategy's best is behind the best that any found, by trials."""
    names = [s for s in STRATEGIES if any(r.of(w, s) for w in r.workloads)]

    def best(w: str) -> float:
        return min(f["seconds"] for s in (*names, TVM) for f in r.finals(w, s, ALL))

    def column(trials: int) -> Callable[[str, str], float | None]:
        return lambda w, s: _ratio(best(w), r.seconds(w, s, trials))

    out = []
    for trials in (FIRST, ALL):
        share = column(trials)
        rows = [[_short(w), *(_text(share(w, s)) for s in names)] for w in r.workloads]
        mean = ["geometric mean", *(_text(_mean(share(w, s) for w in r.workloads)) for s in names)]
        out.append(
            f"Best of {trials} trials, as a share of the best known:\n\n" + _rows(["workload", *names], [*rows, mean])
        )
    return "\n\n".join(out)


def _validity(r: Results) -> str:
    if not r.valid:
        return ""

    def share(found: dict[str, int]) -> str:
        return f"{found.get('ok', 0) / sum(found.values()):.0%}"

    rows = [
        [_short(w), share(v["solved"]), share(v["blind"]), f"{v['kept'] / sum(v['blind'].values()):.0%}"]
        for w, v in r.valid.items()
    ]
    header = ["workload", "solved: right", "drawn knob by knob: right", "of these, meet the constraints"]
    return _rows(header, rows)
