"""What a run found: one result per case and thread count, its CSV form, summaries, and former runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from benchmarks.limits import Limits
from benchmarks.peers import OURS
from benchmarks.timing import Ratio, Series, ratio

#: A ratio under this is a loss; between it and 1 lies the noise of a quiet machine.
LOSS = 0.97

#: Above this many preemptions a second, other work shares the cores, and what was timed is partly that work.
BUSY = 25.0

Key = tuple[str, str, str, int]


def level(moved: int) -> str:
    """Where so many bytes are found again at the next call, on most machines."""
    return "L2" if moved <= 1 << 20 else "L3" if moved <= 32 << 20 else "DRAM"


@dataclass
class Result:
    """One case at one number of threads. `error` set: it was not timed, because the check failed."""

    op: str
    suite: str
    case: str
    threads: int
    flops: int
    bytes: int
    limits: Limits
    warm: dict[str, Series] = field(default_factory=dict)
    cold: dict[str, Series] = field(default_factory=dict)
    route: str = ""
    notes: list[str] = field(default_factory=list)
    error: str = ""
    preempted_per_s: float = 0.0

    @property
    def key(self) -> Key:
        """What identifies the same case in another run."""
        return (self.op, self.suite, self.case, self.threads)

    def us(self, peer: str) -> float | None:
        """Median microseconds a call, warm."""
        return self.warm[peer].spread().median / 1e3 if peer in self.warm else None

    def ratio(self, peer: str = "aten", *, cold: bool = False) -> Ratio | None:
        """The peer's time over tvmops' time: over 1, tvmops is faster. None where either was not timed."""
        series = self.cold if cold else self.warm
        return ratio(series[peer], series[OURS]) if peer in series and OURS in series else None

    def gflops(self, peer: str = OURS) -> float | None:
        """GFLOP/s, warm, from the median."""
        us = self.us(peer)
        return self.flops / us / 1e3 if us else None

    def gbps(self, peer: str = OURS) -> float | None:
        """GB/s, warm, each tensor counted once."""
        us = self.us(peer)
        return self.bytes / us / 1e3 if us else None

    def percent(self, peer: str = OURS) -> float | None:
        """% of the limit measured in the same run: the FMA peak, or where `flops` is 0 the bandwidth of a copy."""
        if not self.flops:
            gbps, copy = self.gbps(peer), self.limits.copy_gbps.get(level(self.bytes))
            return 100 * gbps / copy if gbps and copy else None
        gflops, peak = self.gflops(peer), self.limits.peak()
        return 100 * gflops / peak if gflops and peak else None

    def record(self) -> dict[str, object]:
        """Flat, for CSV and JSON; a value that was not measured is empty."""
        row: dict[str, object] = {
            "op": self.op,
            "suite": self.suite,
            "case": self.case,
            "threads": self.threads,
            "flops": self.flops,
            "bytes": self.bytes,
        }
        for peer in self.warm:
            spread = self.warm[peer].spread()
            row[f"{peer}_us"] = spread.median / 1e3
            row |= {f"{peer}_q1_us": spread.q1 / 1e3, f"{peer}_q3_us": spread.q3 / 1e3}
            row |= {f"{peer}_gflops": self.gflops(peer), f"{peer}_peak_percent": self.percent(peer)}
            if peer in self.cold:
                row[f"{peer}_cold_us"] = self.cold[peer].spread().median / 1e3
            if peer == OURS:
                continue
            for prefix, found in (("ratio", self.ratio(peer)), ("cold_ratio", self.ratio(peer, cold=True))):
                if found is not None:
                    row |= {f"{prefix}_{peer}": found.by_round.median, f"{prefix}_{peer}_q1": found.by_round.q1}
                    row |= {f"{prefix}_{peer}_q3": found.by_round.q3, f"{prefix}_{peer}_of_medians": found.of_medians}
        row["preempted_per_s"] = self.preempted_per_s
        row |= {f"{OURS}_gbps": self.gbps(), "route": self.route, "notes": "; ".join(self.notes), "error": self.error}
        return {name: "" if value is None else value for name, value in row.items()}


@dataclass(frozen=True)
class Summary:
    """How a group of results fares against one peer."""

    count: int
    failed: int
    geomean: float | None
    lowest: Result | None
    losses: list[Result]
    worst: list[Result]
    cold_geomean: float | None
    percent: float | None
    percent_lowest: float | None

    def record(self) -> dict[str, object]:
        """Flat, for JSON."""
        lowest = self.lowest.ratio() if self.lowest else None
        return {
            "cases": self.count,
            "failed": self.failed,
            "geomean": self.geomean,
            "cold_geomean": self.cold_geomean,
            "min": lowest.by_round.median if lowest else None,
            "losses": [result.case for result in self.losses],
            "peak_percent_median": self.percent,
            "peak_percent_min": self.percent_lowest,
        }


def _geomean(values: list[float]) -> float | None:
    return math.exp(fmean(map(math.log, values))) if values else None


def summarise(results: Iterable[Result], peer: str = "aten") -> Summary:
    """Geomean, losses and the worst five of results that share a thread count."""
    results = list(results)
    rated = [(found.by_round.median, result) for result in results if (found := result.ratio(peer))]
    rated.sort(key=lambda pair: pair[0])
    cold = [found.by_round.median for result in results if (found := result.ratio(peer, cold=True))]
    percents = [percent for result in results if (percent := result.percent()) is not None]
    return Summary(
        count=len(results),
        failed=sum(bool(result.error) for result in results),
        geomean=_geomean([value for value, _ in rated]),
        lowest=rated[0][1] if rated else None,
        losses=[result for value, result in rated if value < LOSS],
        worst=[result for _, result in rated[:5]],
        cold_geomean=_geomean(cold),
        percent=median(percents) if percents else None,
        percent_lowest=min(percents, default=None),
    )


def write_csv(path: Path, results: list[Result]) -> None:
    """One line a result, atomically; columns are the union of what the results hold, in order of appearance."""
    records = [result.record() for result in results]
    columns = list(dict.fromkeys(name for record in sorted(records, key=len, reverse=True) for name in record))
    partial = path.with_suffix(".csv.part")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(records)
    partial.replace(path)


class BaselineError(ValueError):
    """A baseline file that is not one of ours; the message names the file and the line."""


def read_baseline(path: Path) -> dict[Key, float]:
    """The ratio against ATen of each case of a former run, from its CSV; raises BaselineError."""
    found: dict[Key, float] = {}
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = {"op", "suite", "case", "threads", "ratio_aten"} - set(reader.fieldnames or ())
            if missing:
                raise BaselineError(f"baseline {path} has no column {', '.join(sorted(missing))}")
            for row in reader:
                if row["ratio_aten"]:
                    try:
                        found[(row["op"], row["suite"], row["case"], int(row["threads"]))] = float(row["ratio_aten"])
                    except (TypeError, ValueError) as error:
                        raise BaselineError(f"baseline {path}, line {reader.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BaselineError(f"baseline {path} can't be read: {error}") from error
    return found
