"""What is run: workloads, series (a strategy over a space, or TVM's tuner), and one search of a series."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codegen import models, spaces
from codegen.measure.measurer import LocalMeasurer
from codegen.records import store
from codegen.search._tune_tir import tune_default
from codegen.search.economy import NearBad
from codegen.spaces.metaschedule import MetaScheduleSpace
from codegen.target import Target
from codegen.tune import FINALISTS, Search
from codegen.workload import Workload

WORKLOADS = (
    "matmul(float32;M=512,N=512,K=512)",
    "linear(float32;M=128,N=1024,K=256)",
    "softmax(float32;M=128,N=1024)",
    "logsumexp(float32;M=128,N=1024)",
    "softmax_backward(float32;M=128,N=1024)",
    "layer_norm(float32;M=128,N=1024)",
    "mean(float32;M=256,N=1024)",
    "sigmoid(float32;N=131072)",
    "bias_activation(float32;M=128,N=1024)",
    "gated_activation(float32;M=128,N=1024)",
)
TVM = "tvm"
STRATEGIES = ("random", "genetic", "constrained-genetic", "annealing", "qlearning", "metaschedule")
SPACE = "derived"
MODEL = "xgboost-rank"
# As the command line has them.
BAD = 0.25


def run(
    name: str, workload: Workload, target: Target, machine: dict[str, Any], trials: int, seed: int,
    report: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    """One search: its trials in order, and the seconds that it took in all, start of helper processes included."""
    found = (
        _tvm(workload, target, trials, seed)
        if name == TVM
        else _ours(name, workload, target, machine, trials, seed, report)
    )
    return {"workload": workload.key, "series": name, "seed": seed, **found}


def _ours(
    name: str, workload: Workload, target: Target, machine: dict[str, Any], trials: int, seed: int,
    report: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    space = spaces.find(workload, target, SPACE)
    options = {"model": models.load(MODEL, seed)} if name in ("constrained-genetic", "metaschedule") else {}
    with tempfile.TemporaryDirectory(prefix="tvmops-") as directory:
        start = time.perf_counter()
        with LocalMeasurer(workload, target, SPACE, [1], seed=seed) as measurer:
            path = store.file_of(Path(directory), target.name)
            pruned = NearBad(fraction=BAD)
            search = Search(workload, target, space, name, seed, path, machine, measurer, options, None, pruned)
            search.run(trials, None, lambda _: report(search.measured))
        seconds = time.perf_counter() - start
        tried = [{"knobs": r.knobs, "status": r.status, "ratio": r.ratio, "seconds": r.seconds} for r in search.records]
    return {"space": SPACE, "wall": seconds, "trials": tried}


def _tvm(workload: Workload, target: Target, trials: int, seed: int) -> dict[str, Any]:
    space = MetaScheduleSpace(workload, target)
    with tempfile.TemporaryDirectory(prefix="tvmops-") as directory:
        seconds, times, best = tune_default(workload, target, trials, seed, Path(directory, "work"))
    tried = [
        {"seconds": t if t < float("inf") else None, "status": "ok" if t < float("inf") else "failed"} for t in times
    ]
    knobs = None if best is None else space.choice_of(best)
    return {"space": space.name, "wall": seconds, "trials": tried, "best": knobs}


def best_of(run: dict[str, Any], trials: int) -> list[dict[str, int]]:
    """The knobs of the best of the first trials, as many as `tune` times again; of TVM's tuner its winner."""
    if run["series"] == TVM:
        return [run["best"]] if run["best"] else []
    good = [t for t in run["trials"][:trials] if t["status"] == "ok"]
    return [t["knobs"] for t in sorted(good, key=lambda t: -t["ratio"])[:FINALISTS]]
