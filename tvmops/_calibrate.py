"""Times kernels against ATen on this machine and turns the result into plans: what to do at each size.

A plan has one entry per size bucket: ATen, or the route by which the kernel is fastest. An entry must not depend on the
number of threads, or the bits of a result would; so each route is judged by its worst ratio over the thread counts.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tvmops import _C
from tvmops._functional import linear, matmul
from tvmops._modes import mode

FORMAT = 1
ATEN, IN_PLACE, PACK, DOT, PREPACKED = range(5)
# Upper bounds of the size buckets, the last one standing for "and beyond"; csrc/drivers/gemm_kernel.cpp has the same.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 768)
SIZES = (8, 16, 32, 64, 128, 256, 1024, 1536)
# A kernel must win by this much to be chosen: about the noise of a median here.
MARGIN = 1.02
# In multiply-adds: larger products take too long to measure and go the way of the largest measured.
LARGEST, LARGEST_THOROUGH = 1 << 27, 1 << 30


@dataclass(frozen=True)
class Verdict:
    """The plan of a kernel, an entry a bucket, and how many times faster than ATen its choice was (0: not measured)."""

    plan: bytes
    ratios: list[float]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def times(calls: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """Median seconds of a call of each, in turn within one loop; ``seconds`` is about what each of them gets."""
    for call in calls:
        call()
    once = []
    for call in calls:
        start = time.perf_counter()
        call()
        once.append(time.perf_counter() - start)
    inner = [max(1, math.ceil(1e-4 / max(t, 1e-7))) for t in once]
    rounds = max(3, min(15, int(seconds / max(t * n for t, n in zip(once, inner, strict=True)))))
    samples: list[list[float]] = [[] for _ in calls]
    for r in range(rounds):
        order = range(len(calls)) if r % 2 else reversed(range(len(calls)))
        for i in order:
            call, n = calls[i], inner[i]
            start = time.perf_counter()
            for _ in range(n):
                call()
            samples[i].append((time.perf_counter() - start) / n)
    return [statistics.median(s) for s in samples]


def _routes(plane: int, m: int) -> tuple[int, ...]:
    """The routes worth timing."""
    if plane == 0:
        return (IN_PLACE, PACK) if m > 4 else (IN_PLACE,)
    if plane == 1:
        return (DOT, PACK) if 4 < m <= 256 else (DOT,) if m <= 4 else (PACK,)
    return (PREPACKED,)


def _ratios(plane: int, m: int, n: int, k: int, seconds: float) -> dict[int, float]:
    """How many times faster than ATen each route is for [m, k] @ [k, n], with the current number of threads."""
    routes = _routes(plane, m)
    a = torch.randn(m, k)
    weight = torch.randn(n, k) if plane else torch.empty(0)
    b = weight.t() if plane == 1 else torch.randn(k, n)

    def timed(route: int) -> Callable[[], Any]:
        if plane == 2:
            return lambda: linear(a, weight, prepack=True)

        def call() -> torch.Tensor:
            _C.set_thread_route(route)
            return matmul(a, b)

        return call

    aten = (lambda: torch.nn.functional.linear(a, weight)) if plane == 2 else (lambda: torch.matmul(a, b))
    try:
        # Both kinds of call pay for setting a route.
        def base() -> Any:
            _C.set_thread_route(-1)
            return aten()

        if plane == 2:
            _C.set_thread_route(PREPACKED)
            taken = times([aten, timed(PREPACKED)], seconds)
        else:
            taken = times([base, *(timed(route) for route in routes)], seconds)
    finally:
        _C.set_thread_route(-1)
        if plane == 2:
            _C.release_packed_weights(True)
    return {route: taken[0] / t for route, t in zip(routes, taken[1:], strict=True)}


def _samples(row: int, sizes: tuple[int, int] | None, n: int, k: int, thorough: bool) -> list[tuple[int, int, int]]:
    """Sizes that stand for a bucket: its upper end, and when thorough the lower end, where panels are least full."""
    upper = (ROWS[row], n if sizes is None else SIZES[sizes[0]], k if sizes is None else SIZES[sizes[1]])
    if not thorough:
        return [upper]

    def lower(bounds: tuple[int, ...], i: int) -> int:
        return bounds[i - 1] + 1 if i else max(1, bounds[0] // 2 + 1)

    if sizes is None:
        low = (lower(ROWS, row), n, k)
    else:
        low = (lower(ROWS, row), lower(SIZES, sizes[0]), lower(SIZES, sizes[1]))
    return [upper] if low == upper else [upper, low]


def _judge(measured: list[dict[int, float]]) -> tuple[int, float]:
    """The route whose worst ratio is best, or ATen, and that ratio."""
    worst = {route: min(m[route] for m in measured) for route in set.intersection(*(set(m) for m in measured))}
    if not worst:
        return ATEN, 0.0
    route = max(worst, key=lambda r: worst[r])
    return (route if worst[route] >= MARGIN else ATEN), worst[route]


def _buckets(dims: dict[str, int]) -> list[tuple[int, tuple[int, int] | None, int]]:
    """(plane, (n, k) bucket, row bucket) of every entry, in the order of a plan."""
    rows = range(len(ROWS))
    if dims.get("M", -1) > 0:  # of a plan by rows only the entry of its own M is used
        return [(0, None, row) for row in rows]
    if dims.get("N", -1) > 0 and dims.get("K", -1) > 0:
        return [(2, None, row) for row in rows]
    sizes = range(len(SIZES))
    return [(plane, (n, k), row) for plane in range(3) for row in rows for n in sizes for k in sizes]


def measure_plan(
    kernel: str,
    *,
    threads: Sequence[int] | None = None,
    seconds: float = 0.004,
    thorough: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Times a kernel of the GEMM family against ATen in every size bucket.

    Args:
        kernel: its name, see :func:`tvmops.kernels`; it must be the one that calls would be served by.
        threads: the thread counts that count; 1 and torch's current number by default.
        seconds: time for one route in one bucket, at each thread count.
        thorough: measure both ends of a bucket, not only its upper one.
        progress: called with (done, all) after each bucket.

    Raises:
        ValueError: no usable kernel has this name.
    """
    entry = next((k for k in _C.kernels() if k["name"] == kernel and k["usable"]), None)
    if entry is None:
        raise ValueError(f"no kernel that this machine can run is called {kernel!r}")
    dims = dict(entry["dims"])
    counts = sorted(set(threads or (1, torch.get_num_threads())))
    buckets = _buckets(dims)
    plan, ratios = bytearray(len(buckets)), [0.0] * len(buckets)
    # Thread counts in the outer loop: changing the number makes the pool start over.
    measured: list[list[dict[int, float]]] = [[] for _ in buckets]
    done = 0
    with torch.inference_mode(), mode("force"):
        for count in counts:
            with _threads(count):
                for i, (plane, sizes, row) in enumerate(buckets):
                    samples = _samples(row, sizes, dims.get("N", -1), dims.get("K", -1), thorough)
                    if dims.get("M", -1) > 0:
                        inside = (ROWS[row - 1] if row else 0) < dims["M"] <= ROWS[row]
                        samples = [(dims["M"], dims["N"], dims["K"])] if inside else []
                    for m, n, k in samples:
                        if m * n * k <= (LARGEST_THOROUGH if thorough else LARGEST):
                            measured[i].append(_ratios(plane, m, n, k, seconds))
                    done += 1
                    if progress:
                        progress(done, len(buckets) * len(counts))
    for i, taken in enumerate(measured):
        if taken:
            plan[i], ratios[i] = _judge(taken)
        elif i:
            plan[i], ratios[i] = plan[i - 1], ratios[i - 1]
    return Verdict(bytes(plan), [round(r, 3) for r in ratios])


def cache_path() -> Path | None:
    """Where this machine's verdicts are kept; None if ``TVMOPS_CALIBRATION`` is ``off``. It may also name the file."""
    setting = os.environ.get("TVMOPS_CALIBRATION", "")
    if setting == "off":
        return None
    if setting:
        return Path(setting)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "tvmops" / "calibration.json"


def _machine() -> dict[str, str]:
    return {"cpu": _C.cpu_model_name(), "torch": torch.__version__, "targets": ",".join(_C.usable_targets())}


def calibrate(progress: Callable[[str, int, int], None] | None = None, **options: Any) -> dict[str, Verdict]:
    """Measures the GEMM kernels that serve calls here, puts the plans to use, and keeps them for later processes.

    Args:
        progress: called with (kernel, done, all).
        **options: as in :func:`measure_plan`.

    Raises:
        OSError: the verdicts can't be written.
    """
    verdicts: dict[str, Verdict] = {}
    entries = [k for k in _C.kernels() if k["serves"] and k["driver"] == "gemm"]
    for entry in entries:
        name = entry["name"]

        def report(done: int, total: int, name: str = name) -> None:
            if progress:
                progress(name, done, total)

        verdicts[name] = measure_plan(name, progress=report, **options)
    for name, verdict in verdicts.items():
        _C.set_plan(name, verdict.plan)
    path = cache_path()
    if path is not None:
        by_name = {e["name"]: e for e in entries}
        kept = {
            "format": FORMAT,
            "machine": _machine(),
            "kernels": {
                n: {"params": by_name[n]["params"], "plan": v.plan.hex(), "ratios": v.ratios}
                for n, v in verdicts.items()
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(kept) + "\n")
        unfinished.replace(path)
    return verdicts


def load_calibration() -> int:
    """Puts the verdicts kept for this machine to use; returns for how many kernels.

    Verdicts of another CPU, torch version or kernel are not used. A file that can't be read is reported by a warning.
    """
    path = cache_path()
    if path is None or not path.exists():
        return 0
    try:
        kept = json.loads(path.read_text())
        if kept["format"] != FORMAT or kept["machine"] != _machine():
            return 0
        params = {k["name"]: k["params"] for k in _C.kernels() if k["usable"]}
        used = 0
        for name, verdict in kept["kernels"].items():
            if params.get(name) == verdict["params"]:
                _C.set_plan(name, bytes.fromhex(verdict["plan"]))
                used += 1
        return used
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        warnings.warn(f"tvmops: {path} is not a calibration and is ignored ({error!r})", stacklevel=2)
        return 0
