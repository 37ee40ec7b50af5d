"""``python -m benchmarks.gpu.calls DEVICE DIR PACK ID...``: the kernels that ship as a model meets them, in tvmops.

For each a line of JSON on stdout: whether the extension's result is right, on a stream of its own and in a CUDA graph
too, which kernel served it, and the seconds of a call beside ATen's, from the host's side.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu import cases
from benchmarks.gpu.devices import Call, Device, make
from benchmarks.gpu.worker import ERROR_FACTOR, ROUNDINGS, allowed_tf32, as_tuple, relative_error
from benchmarks.timing import order
from codegen.measure import device_files
from codegen.measure.device_files import DeviceRequest
from codegen.workload import Workload

ROUNDS, CALLS = 9, 20


def ours(request: DeviceRequest, problem: cases.Problem) -> Callable[[], Any]:
    """The call of tvmops that the problem is."""
    import tvmops

    if request.driver != "cuda_gemm":
        operator = cases.rows_operator(Workload.parse(request.workload))
        return lambda: operator.ours(*problem.traced_args)
    a, b, bias, residual = problem.traced_args
    attrs = Workload.parse(request.workload).attrs
    left = a.mT if attrs.get("a") == "t" else a
    if attrs.get("b") == "t" and len(a) == 1:
        name = problem.point.epilogue.partition(" + ")[0]
        activation = name if name in cases.ACTIVATIONS and name != "none" else None
        rest = None if residual is None else residual[0]
        return lambda: tvmops.linear(left[0], b[0], bias, activation, rest)
    right = b.mT if attrs.get("b") == "t" else b
    return lambda: tvmops.matmul(left, right)


def judge(device: Device, request: DeviceRequest) -> dict[str, Any]:
    """What one kernel comes to, at its first point that has no epilogue but a linear layer's."""
    import tvmops

    attrs = Workload.parse(request.workload).attrs
    fused = attrs.get("b") == "t"
    point = next(p for p in request.all_points if (fused and p.sizes.get("batch", 1) == 1) or not p.epilogue)
    problem = cases.problem(request, point, request.seed, device)
    call, exact = ours(request, problem), as_tuple(problem.exact())[0]
    limit = _limit(request, problem, exact)
    with tvmops.mode("force"):
        served = [d.kernel for d in tvmops.explain(call)]
        errors = {"stream": relative_error(as_tuple(call())[0], exact)}
        if device.where.type == "cuda":
            if not served or None in served:
                return {"status": "failed", "reason": f"{point.text}: no kernel of tvmops served the call"}
            errors |= {"another stream": _aside(call, exact), "graph": _graphed(call, exact)}
        wrong = [f"{where}: relative error {error:.2g}" for where, error in errors.items() if not error <= limit]
        if wrong:
            return {"status": "wrong", "reason": f"{point.text}: {'; '.join(wrong)}"}
        times = _times(device, {"call_seconds": call, "aten_call_seconds": problem.aten})
    return {"status": "ok", "served": served, "point": point.text, **times}


def _limit(request: DeviceRequest, problem: cases.Problem, exact: torch.Tensor) -> float:
    aten = as_tuple(problem.aten())[0]
    return max(ERROR_FACTOR * relative_error(aten, exact), ROUNDINGS * cases.rounding(request, aten))


def _aside(call: Call, exact: torch.Tensor) -> float:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = as_tuple(call())[0]
    stream.synchronize()
    return relative_error(found, exact)


def _graphed(call: Call, exact: torch.Tensor) -> float:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = as_tuple(call())[0]
    found.zero_()
    graph.replay()
    torch.cuda.synchronize()
    return relative_error(found, exact)


def _times(device: Device, calls: dict[str, Call]) -> dict[str, float]:
    """Median seconds of a call, launched one by one, as an eager model does."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(ROUNDS):
        for name in order(list(calls), turn):
            device.synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                calls[name]()
            device.synchronize()
            found[name].append((time.perf_counter() - start) / CALLS)
    return {name: median(values) for name, values in found.items()}


def main(arguments: list[str]) -> int:
    """Judges the kernels one after the other; a device error ends it."""
    import tvmops

    name, directory, pack, *ids = arguments
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    device, every = make(name), device_files.requests(Path(directory))
    if pack:
        tvmops.load_pack(pack)
    for one in ids:
        broken = False
        with torch.inference_mode(), allowed_tf32(cases.is_tf32(every[one])):
            try:
                found = judge(device, every[one])
                device.synchronize()
            except Exception as error:
                found = {"status": "crashed", "reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
                broken = name == "cuda"
        print(json.dumps({"id": one, **found}), file=out, flush=True)
        if broken:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
