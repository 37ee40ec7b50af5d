"""Runs cases: check against float64 first, then time, then ask which kernel served it."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from types import ModuleType

import torch
from torch import Tensor

from benchmarks import limits, peers, timing
from benchmarks.case import Case, Problem
from benchmarks.results import Result

#: Relative Frobenius error by the dtype of the arguments. In float32 ATen has about 1e-7 to 1e-6, bfloat16 would have
#: 1e-3; that is stored in fewer bits is rounded once.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


@dataclass(frozen=True)
class Options:
    """How to time."""

    rounds: int
    min_time: float
    cold: bool
    peers: tuple[str, ...]
    seed: int


def _preemptions() -> int:
    """How often the system took a core away from a thread of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The result that is checked, of an operator that has several."""
    return result[0] if isinstance(result, tuple) else result


def check(problem: Problem, calls: dict[str, Callable[[], Tensor]]) -> str:
    """Empty when every peer's result is right, else one sentence on the first that is not."""
    tensors = [t for t in problem.eager.args if isinstance(t, Tensor)]
    given = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    doubles = (t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in problem.eager.args)
    expected = _first(problem.eager.fn(*doubles))
    dtype = given if expected.is_floating_point() else expected.dtype
    allowed = TOLERANCE[given]
    scale = float(expected.double().norm())
    for peer, call in calls.items():
        try:
            result = _first(call())
        except Exception as error:  # a benchmark of many cases goes on after one that breaks
            return f"{peer} raised {type(error).__name__}: {error}"
        if result.shape != expected.shape or result.dtype != dtype:
            got = f"{tuple(result.shape)} {result.dtype}"
            return f"{peer} returned {got}, expected {tuple(expected.shape)} {dtype}"
        distance = float((result.double() - expected).norm()) / (scale or 1.0)
        if not distance <= allowed:  # also catches NaN
            return f"{peer} is wrong: relative error {distance:.2e} against float64, at most {allowed:.0e} allowed"
    return ""


def run_case(
    case: Case, bounds: limits.Limits, tvmops: ModuleType, options: Options, evict: timing.Evictor | None
) -> Result:
    """One case at torch's present number of threads. A failure is in the result's `error`, not raised."""
    result = Result(case.op, case.suite, case.name, bounds.threads, case.flops, case.bytes, bounds)
    try:
        problem = case.make(options.seed)
    except Exception as error:
        result.error = f"could not be made: {type(error).__name__}: {error}"
        return result
    with torch.no_grad() if problem.no_grad else contextlib.nullcontext():
        calls, result.notes = peers.calls(problem, options.peers)
        result.error = check(problem, calls)
        if result.error:
            return result
        limits.sample_peak(bounds, tvmops)
        before, start = _preemptions(), perf_counter()
        result.warm = timing.warm(calls, options.rounds, options.min_time)
        result.preempted_per_s = (_preemptions() - before) / (perf_counter() - start)
        if evict is not None:
            result.cold = timing.cold(calls, options.rounds, evict)
        try:
            result.route = peers.route(tvmops, problem)
        except Exception as error:
            result.notes.append(f"explain failed: {type(error).__name__}: {error}")
    return result


def run(
    cases: list[Case], host: limits.Machine, tvmops: ModuleType, threads: int, options: Options
) -> Iterator[Result]:
    """Yields a result per case, all at `threads` threads; torch's own number is restored at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        bounds = limits.measure(host, tvmops, threads)
        evict = timing.Evictor(host.l3_total) if options.cold else None
        for case in cases:
            yield run_case(case, bounds, tvmops, options, evict)
    finally:
        torch.set_num_threads(before)
