"""Checks and times kernels in a process of its own, so that one that hangs or breaks the device costs only itself.

Reads a JSON object a line from stdin, and answers each with one on stdout. ``what``: card, check or time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.gpu import cases, timing
from benchmarks.gpu.devices import Call, Device, make
from benchmarks.gpu.kernel import Kernel
from codegen.measure.device_files import DeviceRequest, Point

if TYPE_CHECKING:
    from benchmarks.gpu.emulated import EmulatedKernel

#: Relative Frobenius error against float64: at most so many times ATen's own, or what one rounding may cost.
ERROR_FACTOR, ROUNDINGS = 2.0, 1.5
#: Above so many multiplications, float32 takes the place of float64 as the reference.
EXACT_FLOPS = 2e11


class WrongError(Exception):
    """The numbers are wrong."""


def relative_error(result: Tensor, exact: Tensor) -> float:
    """The Frobenius norm of the difference over that of the exact result; NaN and infinity in both agree."""
    exact = exact.reshape(result.shape).double()
    result = result.double()
    same = (result == exact) | (result.isnan() & exact.isnan())
    difference = torch.where(same, 0.0, result - exact)
    norm = float(torch.linalg.vector_norm(torch.where(exact.isfinite(), exact, 0.0)))
    return float(torch.linalg.vector_norm(difference)) / (norm or 1.0)


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    """The results of an operator that may have one or several."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


class Worker:
    """What the tasks of one process share."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def card(self) -> dict[str, Any]:
        """The device, and what it can do: GB/s of a copy, TFLOP/s of a large product of each 16-bit type and TF32."""
        device, about = self.device, self.device.about()
        small = device.where.type == "cpu"
        count = (1 << 20) if small else (1 << 30)
        source = torch.randint(0, 127, (count,), dtype=torch.int8, device=device.where)
        copies: list[Call] = [partial(torch.empty_like(source).copy_, source) for _ in range(2)]
        peaks = {"copy_gbps": 2e-9 * count / median(timing.interleaved(device, {"copy": copies}, 7)["copy"])}
        del source, copies
        size = 64 if small else 8192
        for name in ("float16", "bfloat16", "tf32"):
            dtype = cases.DTYPES.get(name, torch.float32)
            a, b = (torch.randn(size, size, device=device.where).to(dtype) for _ in range(2))
            products: list[Call] = [partial(torch.mm, a, b)] * 2
            with allowed_tf32(name == "tf32"):
                seconds = median(timing.interleaved(device, {"product": products}, 7)["product"])
            peaks[f"{name}_tflops"] = 2e-12 * size**3 / seconds
        return {"status": "ok", "about": about, "peaks": peaks}

    def check(self, request: DeviceRequest, library: Path, points: list[Point]) -> dict[str, Any]:
        """The worst error of a kernel, and ATen's there.

        Raises:
            WrongError: a result is wrong, not written, or something beside it was.
        """
        kernel, worst = self._kernel(request, library), (0.0, 0.0)
        for i, point in enumerate(points):
            problem = cases.problem(request, point, request.seed + i, self.device)
            problem.poison()
            call = kernel.bind(problem.buffers, problem.sizes, problem.params)
            call()
            self.device.synchronize()
            if not problem.intact():
                raise WrongError(f"{point.text}: it writes beside its results")
            first = [out.clone() for out in problem.outputs]
            problem.poison()
            call()
            self.device.synchronize()
            for once, again in zip(first, problem.outputs, strict=True):
                if not torch.equal(once.nan_to_num(nan=1e4), again.nan_to_num(nan=1e4)):
                    raise WrongError(f"{point.text}: two runs differ")
            worst = max(worst, self._errors(request, problem, as_tuple(problem.exact())))
        return {"status": "ok", "error": worst[0], "aten_error": worst[1]}

    def _errors(self, request: DeviceRequest, problem: cases.Problem, exact: tuple[Tensor, ...]) -> tuple[float, float]:
        """Of what the outputs of a problem hold now, the worst, and ATen's.

        Raises:
            WrongError: one is too large.
        """
        try:
            theirs: tuple[Tensor | None, ...] = as_tuple(problem.aten())
        except RuntimeError:  # ATen lacks it on this device
            theirs = (None,) * len(exact)
        worst = (0.0, 0.0)
        for out, right, other in zip(problem.outputs, exact, theirs, strict=False):
            if out.numel() != right.numel():
                continue
            error = relative_error(out, right)
            aten_error = 0.0 if other is None else relative_error(other, right)
            limit = max(ERROR_FACTOR * aten_error, ROUNDINGS * cases.rounding(request, out))
            if not error <= limit:  # NaN is not
                raise WrongError(f"{problem.point.text}: relative error {error:.2g}, ATen's is {aten_error:.2g}")
            worst = max(worst, (error, aten_error))
        return worst

    def time(
        self,
        request: DeviceRequest,
        library: Path,
        points: list[Point],
        peers: list[str],
        rounds: int,
        seconds: float,
        check: bool,
    ) -> dict[str, Any]:
        """Median seconds of a kernel and of its peers, by point. With ``check``, the first result is looked at."""
        kernel, found, notes = self._kernel(request, library), [], []
        for point in points:
            first = cases.problem(request, point, request.seed, self.device)
            if check:
                self._look(kernel, request, first)
            try:
                first.aten()
            except RuntimeError as error:
                return {"status": "failed", "reason": f"ATen: {str(error).partition(chr(10))[0][:200]}"}
            count = timing.sets(self.device, first.bytes)
            problems = [first, *(cases.problem(request, point, request.seed, self.device) for _ in range(count - 1))]
            calls: dict[str, list[Call]] = {
                "seconds": [kernel.bind(p.buffers, p.sizes, p.params) for p in problems],
                "aten_seconds": [p.aten for p in problems],
            }
            if "inductor" in peers:
                try:
                    calls["inductor_seconds"] = _inductor(problems)
                except Exception as error:  # whatever a compiler stack throws, the others still count
                    notes.append(f"inductor: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}")
            times = timing.interleaved(self.device, calls, rounds, seconds / len(points))
            found.append(
                {
                    **point.to_dict(),
                    **{name: median(values) for name, values in times.items()},
                    "spread": timing.spread(times["seconds"]),
                    "flops": first.flops,
                    "bytes": first.bytes,
                    "workspace_bytes": kernel.workspace_bytes(first.sizes),
                }
            )
            del problems, calls, first
            self.device.release()
        means = {name: geometric_mean(p[name] for p in found) for name in ("seconds", "aten_seconds")}
        return {"status": "ok", **means, "points": found, **({"notes": notes} if notes else {})}

    def _kernel(self, request: DeviceRequest, library: Path) -> Kernel | EmulatedKernel:
        if self.device.where.type == "cpu" and "__global__" in request.file(library.parents[2]).read_text():
            from benchmarks.gpu.emulated import EmulatedKernel  # it needs TVM

            return EmulatedKernel(library, request.symbol, request.target)
        return Kernel(library, request.symbol, self.device)

    def _look(self, kernel: Kernel | EmulatedKernel, request: DeviceRequest, problem: cases.Problem) -> None:
        """At the sizes that are timed.

        Raises:
            WrongError: the results are wrong.
        """
        problem.poison()
        kernel.bind(problem.buffers, problem.sizes, problem.params)()
        self.device.synchronize()
        if problem.flops <= EXACT_FLOPS:
            exact = as_tuple(problem.exact())
        else:
            with allowed_tf32(False):
                whole = (x.float() if isinstance(x, Tensor) else x for x in problem.traced_args)
                exact = as_tuple(problem.traced(*whole))
        self._errors(request, problem, exact)


@contextlib.contextmanager
def allowed_tf32(allowed: bool) -> Iterator[None]:
    """Whether torch may round float32 operands of products to TF32, for a while."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _inductor(problems: list[cases.Problem]) -> list[Call]:
    torch._dynamo.reset()
    compiled = torch.compile(problems[0].traced, mode="max-autotune-no-cudagraphs", dynamic=False)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled(*problems[0].traced_args)
    return [partial(compiled, *p.traced_args) for p in problems]


def answer(worker: Worker, task: dict[str, Any]) -> dict[str, Any]:
    """What a task comes to; what is wrong with a kernel is an answer, too."""
    if task["what"] == "card":
        return worker.card()
    request = DeviceRequest(**task["request"])
    library, points = Path(task["library"]), [Point.of(p) for p in task.get("points", ())]
    try:
        with torch.inference_mode(), allowed_tf32(cases.is_tf32(request)):
            if task["what"] == "check":
                return worker.check(request, library, points or cases.checks(request))
            chosen = points or request.all_points
            peers, rounds = task.get("peers", []), task.get("rounds", 15)
            limit, check = task.get("seconds", 10.0), task.get("check", True)
            return worker.time(request, library, chosen, peers, rounds, limit, check)
    except WrongError as wrong:
        return {"status": "wrong", "reason": str(wrong)}
    except torch.OutOfMemoryError as error:
        return {"status": "exhausted", "reason": str(error).partition("\n")[0]}


def main() -> int:
    """Answers until stdin ends. A device error ends the process: after it, nothing on this device can be trusted."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    device = make(sys.argv[1])
    torch.backends.cuda.matmul.allow_tf32 = False
    worker = Worker(device)
    for line in sys.stdin:
        broken = False
        try:
            found = answer(worker, json.loads(line))
            device.synchronize()
        except Exception as error:
            found = {"status": "crashed", "reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"}
            broken = True
        print(json.dumps(found), file=out, flush=True)
        if broken and device.where.type == "cuda":
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
