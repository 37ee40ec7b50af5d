"""Batches from the side that has TVM: candidates are built into one, and its results become records."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from .. import search
from ..errors import CodegenError
from ..records import store
from ..search.strategy import Strategy, Trial, identity
from ..spaces.space import Choice, Space, broken
from ..target import Target, find
from ..tune import rounded
from ..worker import WorkerError
from ..workload import Workload
from . import batch_files, objectives
from .batch_files import Request, Result, digest
from .builders import Builders
from .device_files import DeviceRequest
from .measurer import Outcome

# So many that can't be built are replaced by others, for each that is wanted.
ATTEMPTS = 4
README = """\
# A batch of kernel candidates

{count} candidates for {targets}, built with TVM {tvm}; `requests.jsonl` tells what is measured of each. On a Linux
machine with torch and tvmops, TVM is not needed:

```sh
python -m tvmops.codegen.measure.batch DIR   # where tvmops is installed
python -m codegen.measure.batch DIR          # in its repository, once the extension is built
```

DIR is this directory. The machine should do nothing else meanwhile. Each candidate runs in a process of its own with
limits of time and memory, and its result is appended to `results.jsonl` at once: a run that was killed goes on where it
was. Candidates for targets that the machine does not run are left out.

Then bring `results.jsonl` back into the directory that was exported, and there:

```sh
python -m codegen measure import DIR --records build/records
```
"""


@dataclass(frozen=True)
class Plan:
    """How the candidates of a batch are measured."""

    seed: int = 0
    threads: Sequence[int] = (1,)
    rounds: int = 5
    limit: float = 300.0


def proposals(space: Space, strategy: str, seed: int, records: Sequence[store.Record]) -> Iterator[Choice]:
    """Choices to try next: the default, then what a strategy proposes that has seen these records. None twice.

    Raises:
        CodegenError: there is no such strategy.
    """
    chosen = search.load(strategy, space, seed)
    usable = [r for r in records if not broken(space, r.knobs)]
    for one in usable:
        chosen.observe(Trial(one.knobs, one.ratio))
    return _fresh(space, chosen, {identity(r.knobs) for r in usable})


def _fresh(space: Space, chosen: Strategy, known: set[tuple[tuple[str, int], ...]]) -> Iterator[Choice]:
    default = space.default()
    if not broken(space, default) and identity(default) not in known:
        known.add(identity(default))
        yield default
    while proposed := chosen.propose(1):
        for choice in proposed:
            if identity(choice) not in known:
                known.add(identity(choice))
                yield choice


def export(
    directory: Path,
    workload: Workload,
    target: Target,
    space: Space,
    choices: Iterable[Choice],
    count: int,
    *,
    strategy: str,
    first: int = 0,
    plan: Plan | None = None,
    report: Callable[[Request | str], None] = lambda _: None,
) -> list[Request]:
    """Builds the first ``count`` of the choices that can be built into a batch, those that it has already left out.

    Args:
        directory: of the batch, which is made, or added to.
        strategy: the name that records will have.
        first: the trial number of the first.
        report: told each candidate that was built, or why one could not be.

    Returns:
        What was added.

    Raises:
        CodegenError: the directory holds something else, or can't be written.
    """
    plan = plan or Plan()
    path = directory / batch_files.REQUESTS
    if directory.is_dir() and any(directory.iterdir()) and not path.is_file():
        raise CodegenError(f"{directory} is not empty, and no batch")
    (directory / batch_files.PACKS).mkdir(parents=True, exist_ok=True)
    batch_files.mend(path)
    every = batch_files.requests(directory) if path.is_file() else {}
    mine = [r for r in every.values() if (r.workload, r.target) == (workload.key, target.name)]
    known = {identity(r.knobs) for r in mine if r.space == space.name}
    fresh = iter(choice for choice in choices if identity(choice) not in known)
    added: list[Request] = []
    with tempfile.TemporaryDirectory(prefix="tvmops-") as temporary:
        builders = Builders(workload, target, space.name, Path(temporary))
        try:
            left = ATTEMPTS * count
            while len(added) < count and left > 0:
                group = [c for _, c in zip(range(min(count - len(added), left, 2 * _cores())), fresh, strict=False)]
                if not group:
                    break
                left -= len(group)
                for choice, pack in zip(group, builders.build(group), strict=True):
                    if isinstance(pack, WorkerError):
                        report(f"{_text(choice)}: {pack.status}: {pack}")
                        continue
                    request = Request(
                        workload=workload.key,
                        target=target.name,
                        space=space.name,
                        knobs=dict(choice),
                        seed=plan.seed,
                        threads=sorted(set(plan.threads)),
                        rounds=plan.rounds,
                        limit=plan.limit,
                        strategy=strategy,
                        trial=first + len(mine) + len(added),
                        tvm=tvm.__version__,
                        pack=digest(pack),
                        code_bytes=objectives.code_bytes(pack),
                    )
                    shutil.copyfile(pack, request.file(directory))
                    with open(path, "a") as file:
                        file.write(request.to_json() + "\n")
                    every[request.id] = request
                    added.append(request)
                    report(request)
        finally:
            builders.close()
    targets = ", ".join(sorted({r.target for r in every.values()}))
    if every:
        text = README.format(count=len(every), targets=targets, tvm=tvm.__version__)
        (directory / "README.md").write_text(text)
    return added


def collect(directory: Path, records: Path) -> tuple[list[store.Record], int]:
    """Adds the results of a batch to the records of their targets. All are looked at before the first is written.

    Returns:
        What was added, and how many were there before.

    Raises:
        CodegenError: a line is broken, or the result of a candidate that is not in the batch; nothing was written then.
            Or a record can't be written.
    """
    every = batch_files.requests(directory)
    path = directory / batch_files.RESULTS
    found = []
    for number, result in batch_files.results(directory):
        try:
            if result.id not in every:
                raise CodegenError(f"{result.id} is no candidate of this batch")
            found.append(record(every[result.id], result))
        except CodegenError as error:
            raise CodegenError(f"{path}:{number}: {error}") from None
    return store.append_new(records, found)


def record(request: Request, result: Result) -> store.Record:
    """The record of a result. An answer that is no measurement, as a candidate may have written it, is a failure.

    Raises:
        CodegenError: the request or the rest of the result is not sound.
    """
    Workload.parse(request.workload)
    find(request.target)

    failed = measured(request, result, Outcome("failed", "its answer is no measurement"))
    try:
        sound = result.answer["status"] == "ok"
        more = {"code_bytes": request.code_bytes} if sound else {}
        return measured(request, result, Outcome(**{**result.answer, **more}))
    except (CodegenError, AttributeError, KeyError, TypeError, ValueError):
        return failed


def measured(request: Request | DeviceRequest, result: Result, outcome: Outcome, **more: Any) -> store.Record:
    """The record of what a result came to; ``more`` are further fields of it."""
    fields = {**vars(outcome), "points": [rounded(p) for p in outcome.points], **more}
    one = store.Record(
        workload=request.workload,
        target=request.target,
        space=request.space,
        knobs=request.knobs,
        machine=result.machine,
        date=result.date,
        seed=request.seed,
        strategy=request.strategy,
        trial=request.trial,
        **fields,
    )
    return store.parse(one.to_json())  # as it will be read


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _text(choice: Choice) -> str:
    return ",".join(f"{name}={value}" for name, value in choice.items())
