"""Batches of GPU kernels from the side that has TVM: which candidates, and their sources."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tvm

from .. import ops, spaces
from ..cuda.kernel import DeviceKernel
from ..cuda.lower import DeviceSource, emit
from ..errors import CodegenError
from ..export import nvcc, sass
from ..export.device import Compiled, predictions
from ..export.pack import PackKernel, abi_header
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
    """What ships; for each workload that is tuned also, of each of its spaces, ``count`` choices.

    The first are the default and what the space names as ``alternatives``, if it does; the others are samples.

    Args:
        targets: of which all workloads are taken.
        count: of choices a space.
        seed: of the solver.
        records: a folder of records; what they hold is not proposed again, and the best of them ships.
        only: workloads whose keys begin so.
    """
    for target in targets:
        known = store.read(store.file_of(records, target.name)) if records else []
        found = [w for w in ops.device_shipped(target) if w.key.startswith(only)]
        for workload in sorted(found, key=lambda w: not _is_tuned(w)):
            mine = store.matching(known, workload, target.name)
            yield from _of(workload, target, count if _is_tuned(workload) else 0, seed, mine)


def _is_tuned(workload: Workload) -> bool:
    return workload.dtype in TUNED_DTYPES and workload.op in ("matmul", *TUNED_ROWS)


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
    for space in spaces_of(workload, target) if count else ():
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
    # From the end on.
    first: list[Choice] = [*getattr(space, "alternatives", list)(), space.default()]
    while count > 0 and left > 0:
        left -= 1
        choice = first.pop() if first else solver.sample(rng)
        if choice is None:
            return
        if identity(choice) not in seen:
            seen.add(identity(choice))
            count -= 1
            yield choice


def request_of(one: Candidate, source: DeviceSource, predicted: Sequence[float | None], seed: int = 0) -> DeviceRequest:
    """What is asked about a candidate.

    Args:
        one: the candidate.
        source: that of the first of its kernels.
        predicted: seconds, by point.
        seed: of the data.
    """
    kernel = cast("list[DeviceKernel]", one.space.apply(one.choice))[0]
    driver, workload = one.space.driver, one.workload
    operator: Any = ops.load(workload.op)
    operands: list[list[Any]] = []
    if driver == "cuda_rows":
        program = next(iter(operator.device_variants(workload.dtype).values()))
        of = {o.name: o for o in program.operands}
        operands = [[name, of[name].role, of[name].written, of[name].dtype] for name in kernel.buffers]
    decisive = device_points.decisive(workload, driver, flat=getattr(operator, "flat", False))
    return DeviceRequest(
        workload=workload.key,
        target=one.target.name,
        space=one.space.name,
        knobs=dict(one.choice),
        driver=driver,
        symbol=kernel.symbol,
        params=dict(one.space.params(one.choice)),
        source=hashlib.sha256(source.text.encode()).hexdigest(),
        points=[p.to_dict() for p in device_points.points(workload, driver)],
        predicted=list(predicted),
        seed=seed,
        strategy=one.strategy,
        trial=one.trial,
        tvm=tvm.__version__,
        workspace=source.workspace,
        shipped=one.shipped,
        operands=operands,
        plan=[[{"sizes": dict(sizes)} for sizes in bucket] for bucket in decisive],
    )


def source_of(one: Candidate) -> DeviceSource:
    """The source of the first kernel of a candidate: of several, by activation, it stands for all.

    Raises:
        CodegenError: no source can be made of it.
    """
    try:
        return emit(cast("list[DeviceKernel]", one.space.apply(one.choice))[0], one.target)
    except (tvm.error.InternalError, ValueError) as error:
        raise CodegenError(str(error).partition("\n")[0]) from None


def predicted(one: Candidate, source: DeviceSource, folder: Path) -> list[float | None]:
    """Compiles a source in ``folder``. Returns the seconds that the model expects at each point; needs nvcc.

    Raises:
        CodegenError: nvcc or the disassembler is missing or fails, or the kernel spills registers.
    """
    path = folder / f"{source.symbol}.cu"
    path.write_text(source.text)
    made = path.with_suffix(".cubin")  # the launcher's part takes as long again, and is not asked about
    usages = nvcc.compile_source(path, made, one.target.name, [abi_header().parent])
    nvcc.refuse_spills(usages, one.workload.key)
    space, choice = one.space, one.choice
    kernel = PackKernel(
        one.workload, one.target, space.name, space.driver, choice, space.params(choice), space.apply(choice)[:1]
    )
    compiled = Compiled(source, made, usages, sass.disassemble(made))
    return [p.seconds for p in predictions(kernel, {source.symbol: compiled})]


def export(
    directory: Path,
    chosen: Iterable[Candidate],
    seed: int = 0,
    report: Callable[[DeviceRequest | str], None] = lambda _: None,
    *,
    compiled: bool = True,
) -> list[DeviceRequest]:
    """Writes a batch: ``targets.json``, ``requests.jsonl``, the sources. What was there is replaced, but for results.

    Args:
        directory: of the batch.
        chosen: what is written; one that no source can be made of is reported and left out.
        seed: of the data.
        report: told each request, or why there is none.
        compiled: each is also compiled, to predict its times, and left out where it spills; needs nvcc.
    """
    (directory / device_files.SOURCES).mkdir(parents=True, exist_ok=True)
    written: list[DeviceRequest] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, tempfile.TemporaryDirectory(prefix="tvmops-") as temporary:
        begun: list[tuple[Candidate, DeviceSource, Future[list[float | None]] | None]] = []
        for one in chosen:
            try:
                source = source_of(one)
            except CodegenError as error:
                report(f"{_name(one)}: {error}")
                continue
            begun.append((one, source, pool.submit(predicted, one, source, Path(temporary)) if compiled else None))
        for one, source, future in begun:
            try:
                seconds = (
                    future.result() if future else [None] * len(device_points.points(one.workload, one.space.driver))
                )
            except CodegenError as error:
                report(f"{_name(one)}: {error}")
                continue
            request = request_of(one, source, seconds, seed)
            request.file(directory).write_text(source.text)
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


def _name(one: Candidate) -> str:
    knobs = ",".join(f"{name}={value}" for name, value in one.choice.items())
    return f"{one.workload.key} {one.target.name} {one.space.name} {knobs}"
