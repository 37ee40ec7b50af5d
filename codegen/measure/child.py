"""Judges a candidate, in a process that is for it alone (``forkserver``). No TVM here.

The environment variable ``TVMOPS_TARGET`` holds the candidate's target, so that no kernel of a higher one serves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from statistics import geometric_mean, median
from typing import Any

import torch
from torch import Tensor

import tvmops
from tvmops import _C

from ..workload import Workload
from . import gemm, rotary, rows, scan
from .case import Case
from .plan import measure_plan

# Relative Frobenius error against float64: at most so many times ATen's own, or the floor of the case.
ERROR_FACTOR = 2.0
# A sample is at least this long, in seconds, so that the clock and the interpreter do not count.
SAMPLE = 1e-3


# By driver: what is checked and timed.
FAMILIES: dict[str, Any] = {"gemm": gemm, "reduce": rows, "rotary": rotary, "rows": rows, "scan": scan}


class WrongError(Exception):
    """The numbers are wrong."""


def about() -> dict[str, Any]:
    """The machine, as records tell it, and the targets it can run."""
    return {
        "status": "ok",
        "targets": _C.usable_targets(),
        "machine": {"cpu": _C.cpu_model_name(), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }


def relative_error(result: Tensor | tuple[Tensor, ...], exact: Tensor) -> float:
    """The Frobenius norm of the difference over that of the exact result; of the first result where there are more."""
    result = result[0] if isinstance(result, tuple) else result
    exact = exact.double()  # indices are not
    norm = float(torch.linalg.vector_norm(exact))
    return float(torch.linalg.vector_norm(result.double() - exact)) / (norm or 1.0)


def check(cases: Iterable[Case], threads: Sequence[int]) -> tuple[float, float]:
    """The worst error of the candidate, and ATen's in the same case.

    Raises:
        WrongError: an error is more than twice ATen's.
    """
    worst = (0.0, 0.0)
    for case in cases:
        assert case.exact is not None
        served = tvmops.explain(case.ours)
        if not served or any(decision.kernel is None for decision in served):
            raise RuntimeError(
                f"no kernel serves {_name(case)}: {served[0].reason if served else 'nothing was called'}"
            )
        aten_error = relative_error(case.aten(), case.exact)
        limit = max(ERROR_FACTOR * aten_error, case.floor)
        for count, route in product(threads, case.routes):
            torch.set_num_threads(count)
            _C.set_thread_route(route)
            error = relative_error(case.ours(), case.exact)
            _C.set_thread_route(-1)
            if not error <= limit:  # NaN is not
                raise WrongError(
                    f"{_name(case)}, {count} threads: relative error {error:.2g}, ATen's is {aten_error:.2g}"
                )
            if case.recorded:
                worst = max(worst, (error, aten_error))
    return worst


def _name(case: Case) -> str:
    return f"{case.layout} {','.join(f'{k}={v}' for k, v in case.sizes.items())}"


def timed(ours: Callable[[], Any], aten: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Medians of the seconds a call, taking turns."""

    def sample(call: Callable[[], Any], count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count

    calls = (ours, aten)
    for call in calls:
        call()
    counts = [max(1, math.ceil(SAMPLE / max(1e-9, min(sample(call, 1), sample(call, 1))))) for call in calls]
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for i in (0, 1) if turn % 2 == 0 else (1, 0):
            taken[i].append(sample(calls[i], counts[i]))
    return median(taken[0]), median(taken[1])


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Loads the candidate of a request. Returns its kernel, see ``tvmops.kernels``."""
    _C.load_pack(request["pack"])
    ours = [k for k in _C.kernels() if k["workload"] == request["workload"] and k["usable"] and not k["shadowed"]]
    if not ours or ours[0]["pack"] != request["pack"]:
        raise RuntimeError("the candidate is not the kernel that calls would be given to")
    return ours[0]


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Checks and times the candidate of a request."""
    family = FAMILIES[load(request)["driver"]]
    workload, threads = Workload.parse(request["workload"]), request["threads"]
    with tvmops.mode("force"), torch.no_grad():
        try:
            error, aten_error = check(family.checks(workload, request["knobs"], request["seed"]), threads)
        except WrongError as wrong:
            return {"status": "wrong", "reason": str(wrong)}
        points = []
        for case in family.timings(workload, request["seed"]):
            for count in threads:
                torch.set_num_threads(count)
                mine, its = timed(case.ours, case.aten, request["rounds"])
                point = {"sizes": dict(case.sizes), "layout": case.layout, "threads": count}
                points.append({**point, "seconds": mine, "aten_seconds": its})
    return {
        "status": "ok",
        "error": error,
        "aten_error": aten_error,
        "points": points,
        "seconds": geometric_mean(p["seconds"] for p in points),
        "aten_seconds": geometric_mean(p["aten_seconds"] for p in points),
    }


def warm_up() -> None:
    """Sets up what torch sets up at the first use, for all forks of this process; starts no thread."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        x = torch.ones(4, 4)
        relative_error(x @ x + x, x.double())
        torch.nn.functional.linear(x, x, x[0])
    torch.set_num_threads(count)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for: ``about``, ``plan`` or ``measure``."""
    if request["what"] == "about":
        return about()
    if request["what"] == "plan":
        return {"status": "ok", **measure_plan(load(request), request["threads"])}
    return measure(request)
