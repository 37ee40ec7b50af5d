"""Judges a candidate, in a process that is for it alone (``forkserver``). No TVM here.

The environment variable ``TVMOPS_TARGET`` holds the candidate's target, so that no kernel of a higher one serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from statistics import geometric_mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tvmops
from tvmops import _C

from .. import ops
from ..workload import Workload
from . import gemm, rotary, rows, scan, timing, whole
from .case import Case
from .objectives import Energy, Workspace
from .plan import measure_plan

# Relative Frobenius error against float64: at most so many times ATen's own, or the floor of the case.
ERROR_FACTOR = 2.0

# By driver: what is checked and timed.
FAMILIES: dict[str, Any] = {"gemm": gemm, "reduce": rows, "rotary": rotary, "rows": rows, "scan": scan, "whole": whole}


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


def check(cases: Iterable[Case], threads: Sequence[int], workspace: Workspace) -> tuple[float, float]:
    """The worst error of the candidate, and ATen's in the same case. All calls are the workspace's to watch.

    Raises:
        WrongError: an error is more than twice ATen's.
    """
    worst = (0.0, 0.0)
    for case in cases:
        assert case.exact is not None
        with workspace.watched():
            served = tvmops.explain(case.ours) if case.explained else ()
        if case.explained and (not served or any(decision.kernel is None for decision in served)):
            raise RuntimeError(
                f"no kernel serves {_name(case)}: {served[0].reason if served else 'nothing was called'}"
            )
        aten_error = relative_error(case.aten(), case.exact)
        limit = max(ERROR_FACTOR * aten_error, case.floor)
        for count, route in product(threads, case.routes):
            torch.set_num_threads(count)
            _C.set_thread_route(route)
            with workspace.watched():
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


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Loads the candidate of a request. Returns its kernel, see ``tvmops.kernels``."""
    _C.load_pack(request["pack"])
    ours = [k for k in _C.kernels(request["workload"]) if k["usable"] and not k["shadowed"]]
    if not ours or ours[0]["pack"] != request["pack"]:
        raise RuntimeError("the candidate is not the kernel that calls would be given to")
    return ours[0]


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Checks and times the candidate of a request.

    The request may say, besides what every one does:

    - ``check`` (True): whether the numbers are checked; without, ``error`` and ``aten_error`` are not in the answer.
    - ``rounds``: the samples that are taken at least, see :mod:`.timing`.
    - ``aten`` (True): whether ATen is timed, too, taking turns; without, ``aten_seconds`` is not in the answer.
    - ``flush`` (False): whether the caches are emptied before each sample.

    Times are trimmed means by case and thread count, and geometric means of those; ``spread`` is the median of theirs.
    """
    family = FAMILIES[load(request)["driver"]]
    workload, threads = Workload.parse(request["workload"]), request["threads"]
    workspace = Workspace(lambda: _C.release_packed_weights(True))
    found: dict[str, Any] = {}
    with tvmops.mode("force"), torch.no_grad():
        if request.get("check", True):
            try:
                worst = check(family.checks(workload, request["knobs"], request["seed"]), threads, workspace)
            except WrongError as wrong:
                return {"status": "wrong", "reason": str(wrong)}
            found["error"], found["aten_error"] = worst
        found |= _time(family.timings(workload, request["seed"]), request, workspace)
    found["workspace_bytes"] = workspace.bytes
    return {"status": "ok", **{k: v for k, v in found.items() if v is not None}}


def _time(cases: Iterable[Case], request: dict[str, Any], workspace: Workspace) -> dict[str, Any]:
    flush = timing.flusher() if request.get("flush") else None
    energy, joules = Energy(), []
    points, spreads = [], []
    for case in cases:
        for count in request["threads"]:
            torch.set_num_threads(count)
            with workspace.watched():
                case.ours()
            calls = [case.ours, case.aten] if request.get("aten", True) else [case.ours]
            taken = timing.samples(calls, request["rounds"], flush)
            times = dict(zip(("seconds", "aten_seconds"), map(timing.trimmed_mean, taken), strict=False))
            points.append({"sizes": dict(case.sizes), "layout": case.layout, "threads": count, **times})
            spreads.append(timing.spread(taken[0]))
            joules.append(energy.of(case.ours))
    means: dict[str, Any] = {
        k: geometric_mean(p[k] for p in points) for k in ("seconds", "aten_seconds") if k in points[0]
    }
    known = [j for j in joules if j]
    mean = geometric_mean(known) if known and len(known) == len(points) else None
    return means | {"points": points, "spread": median(spreads), "joules": mean}


def warm_up() -> None:
    """Sets up what torch sets up at the first use, for all forks of this process; starts no thread."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    np.random.default_rng(0)
    for name in ops.all_ops():
        ops.load(name)
    with torch.no_grad():
        x = torch.ones(4, 4)
        relative_error(x @ x + x, x.double())
        torch.nn.functional.linear(x, x, x[0])
        with tvmops.mode("off"):
            tvmops.explain(tvmops.linear, x, x, x[0])
    torch.set_num_threads(count)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for: ``about``, ``plan`` or ``measure``."""
    if request["what"] == "about":
        return about()
    if request["what"] == "plan":
        return {"status": "ok", **measure_plan(load(request), request["threads"])}
    return measure(request)
