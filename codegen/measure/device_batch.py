"""Batches of GPU kernels from the side that has TVM: which candidates, and their sources."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tvm

from .. import ops, spaces
from ..cuda.kernel import DeviceKernel
from ..cuda.lower import emit
from ..errors import CodegenError
from ..ops._rows import RowsOperator
from ..records import store
from ..search.strategy import identity
from ..spaces.solver import Solver
from ..spaces.space import Choice, Space, broken
from ..target import GPU_TARGETS, GpuTarget
from ..workload import Workload
from . import device_files, device_points
from .batch_files import REQUESTS
from .device_files import DeviceRequest

# Row programs that are tuned: what models spend their time in.
TUNED_ROWS = ("softmax", "layer_norm", "rms_norm", "add_rms_norm", "gelu", "gated_activation")
TUNED_DTYPES = ("float16", "bfloat16")
STRATEGY, SHIPPED = "solver", "shipped"
# So often the solver is asked for one that is new before a space counts as used up.
TURNS = 4


@dataclass(frozen=True)
class Candidate:
    """One choice of a space, for a batch."""

    workload: Workload
    target: GpuTarget
    space: Space
    choice: Choice
    strategy: str
    trial: int
    shipped: bool


def candidates(
    targets: Iterable[GpuTarget], count: int, seed: int, records: Path | None = None, only: str = ""
) -> Iterator[Candidate]:
    """For each workload that is tuned what ships, and of each of its spaces the default and ``count`` samples.

    Args:
        targets: of which all workloads are taken.
        count: of samples a space.
        seed: of the solver.
        records: a folder of records; what they hold is not proposed again, and the best of them ships.
        only: workloads with this text in their key.
    """
    for target in targets:
        known = store.read(store.file_of(records, target.name)) if records else []
        for workload in ops.device_shipped(target):
            if only in workload.key and _is_tuned(workload):
                yield from _of(workload, target, count, seed, store.matching(known, workload, target.name))


def _is_tuned(workload: Workload) -> bool:
    rows = isinstance(ops.load(workload.op), RowsOperator)
    return workload.dtype in TUNED_DTYPES and (not rows or workload.op in TUNED_ROWS)


def _of(
    workload: Workload, target: GpuTarget, count: int, seed: int, known: Sequence[store.Record]
) -> Iterator[Candidate]:
    best = store.winner(known)
    own = spaces.find(workload, target, best.space if best else None)
    if best and not broken(own, best.knobs):
        yield Candidate(workload, target, own, best.knobs, best.strategy, best.trial, True)
    else:
        yield Candidate(workload, target, own, own.default(), SHIPPED, 0, True)
    trial = max((r.trial for r in known), default=0) + 1
    for space in spaces_of(workload, target):
        seen = {identity(r.knobs) for r in known if r.space == space.name}
        seen |= {identity(own.default())} if space.name == own.name and not best else set()
        for choice in _samples(space, count, seed, seen):
            yield Candidate(workload, target, space, choice, STRATEGY, trial, False)
            trial += 1


def spaces_of(workload: Workload, target: GpuTarget) -> list[Space]:
    """All spaces that a workload has on a GPU, its own first."""
    own = spaces.find(workload, target)
    found = [own]
    for name in getattr(ops.load(workload.op), "DEVICE_SPACES", ()):
        try:
            other = spaces.find(workload, target, name)
        except CodegenError:
            continue
        if other.name != own.name:
            found.append(other)
    return found


def _samples(space: Space, count: int, seed: int, seen: set[Any]) -> Iterator[Choice]:
    rng, solver, left = random.Random(seed), Solver(space), TURNS * count
    first: list[Choice] = [space.default()]
    while count > 0 and left > 0:
        left -= 1
        choice = first.pop() if first else solver.sample(rng)
        if choice is None:
            return
        if identity(choice) not in seen:
            seen.add(identity(choice))
            count -= 1
            yield choice


def request_of(one: Candidate, seed: int = 0) -> tuple[DeviceRequest, str]:
    """The request of a candidate, and its source.

    Raises:
        CodegenError: no source can be made of it.
    """
    kernel = cast("list[DeviceKernel]", one.space.apply(one.choice))[0]
    source = emit(kernel, one.target)
    driver, workload = one.space.driver, one.workload
    operator: Any = ops.load(workload.op)
    operands: list[list[Any]] = []
    if driver == "cuda_rows":
        program = next(iter(operator.variants(workload.dtype).values()))
        of = {o.name: o for o in program.operands}
        operands = [[name, of[name].role, of[name].written, of[name].dtype] for name in kernel.buffers]
    points = device_points.points(workload, driver)
    request = DeviceRequest(
        workload=workload.key,
        target=one.target.name,
        space=one.space.name,
        knobs=dict(one.choice),
        driver=driver,
        symbol=kernel.symbol,
        params=dict(one.space.params(one.choice)),
        source=hashlib.sha256(source.text.encode()).hexdigest(),
        points=[p.to_dict() for p in points],
        predicted=[None for _ in points],
        seed=seed,
        strategy=one.strategy,
        trial=one.trial,
        tvm=tvm.__version__,
        workspace=source.workspace,
        shipped=one.shipped,
        operands=operands,
        plan=[
            [{"sizes": dict(sizes)} for sizes in bucket]
            for bucket in device_points.decisive(workload, driver, flat=getattr(operator, "flat", False))
        ],
    )
    return request, source.text


def export(
    directory: Path,
    chosen: Iterable[Candidate],
    seed: int = 0,
    report: Callable[[DeviceRequest | str], None] = lambda _: None,
) -> list[DeviceRequest]:
    """Writes a batch: ``targets.json``, ``requests.jsonl``, the sources. What was there is replaced, but for results.

    Args:
        directory: of the batch.
        chosen: what is written; one that no source can be made of is reported and left out.
        seed: of the data.
        report: told each request, or why there is none.
    """
    (directory / device_files.SOURCES).mkdir(parents=True, exist_ok=True)
    written: list[DeviceRequest] = []
    for one in chosen:
        try:
            request, text = request_of(one, seed)
        except (CodegenError, tvm.error.InternalError, ValueError) as error:
            report(f"{one.workload.key} {one.target.name} {one.space.name}: {str(error).partition(chr(10))[0]}")
            continue
        request.file(directory).write_text(text)
        written.append(request)
        report(request)
    kept = {r.file(directory).name for r in written}
    for stale in (directory / device_files.SOURCES).glob("*.cu"):
        if stale.name not in kept:
            stale.unlink()
    (directory / REQUESTS).write_text("".join(r.to_json() + "\n" for r in written))
    names = sorted({r.target for r in written})
    about = {n: {"capability": list(GPU_TARGETS[n].capability)} for n in names}
    (directory / device_files.TARGETS).write_text(json.dumps(about, indent=1) + "\n")
    return written
