"""Runs a batch of candidates on a machine that needs no TVM: ``python -m codegen.measure.batch DIR``.

A batch is a directory that ``codegen measure export`` wrote: packs, and what to ask about each (``batch_files``). This
needs torch and tvmops alone; where tvmops is installed with it, it is ``python -m tvmops.codegen.measure.batch DIR``.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CodegenError
from ..worker import WorkerError
from .batch_files import RESULTS, Request, Result, digest, mend, requests, results
from .local import LocalRunner
from .runner import Machine


def run(directory: Path, report: Callable[[Request, Result], None]) -> dict[str, int]:
    """Judges the candidates that have no result yet, one after the other; each result is on disk before the next.

    Returns:
        How many were left out by target, because this machine does not run it.

    Raises:
        CodegenError: there is no batch, a pack is missing or another one, tvmops does not work here, another run goes
            on, or a result can't be written.
    """
    every = requests(directory)
    skipped: dict[str, int] = {}
    with _open(directory / RESULTS) as handle:
        done = {result.id for _, result in results(directory)}
        left = [request for request in every.values() if request.id not in done]
        here = _here() if left else None
        for target in dict.fromkeys(request.target for request in left):
            assert here is not None
            group = [request for request in left if request.target == target]
            if target not in here.targets:
                skipped[target] = len(group)
                continue
            runner = LocalRunner(target)
            try:
                for request in group:
                    result = _judge(runner, here.about, request, directory)
                    _append(handle, directory / RESULTS, result)
                    report(request, result)
            finally:
                runner.close()
    return skipped


def _here() -> Machine:
    runner = LocalRunner()
    try:
        return runner.machine()
    finally:
        runner.close()


def _judge(runner: LocalRunner, about: dict[str, Any], request: Request, directory: Path) -> Result:
    pack = request.file(directory).resolve()
    try:
        found = digest(pack)
    except OSError as error:
        raise CodegenError(f"can't read {pack}: {error.strerror}") from None
    if found != request.pack:
        raise CodegenError(f"{pack} is not the pack that was exported")
    asked = {"what": "measure", "workload": request.workload, "knobs": request.knobs, "seed": request.seed}
    try:
        answer = runner.run(pack, {**asked, "threads": request.threads, "rounds": request.rounds}, request.limit)
    except WorkerError as error:
        answer = {"status": error.status, "reason": str(error)}
    if answer["status"] == "ok" and not all(_positive(answer.get(name)) for name in ("seconds", "aten_seconds")):
        answer = {"status": "failed", "reason": "no time was measured"}
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Result(request.id, {**about, "tvm": request.tvm}, now, answer)


def _positive(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0


@contextmanager
def _open(path: Path) -> Iterator[int]:
    """A file to append to, which nobody else has, without what a killed run left of its last line."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise CodegenError(f"can't write results to {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CodegenError(f"another run writes to {path}") from None
        mend(path)
        yield handle
    finally:
        os.close(handle)


def _append(handle: int, path: Path, result: Result) -> None:
    line = result.to_json().encode() + b"\n"
    start = os.fstat(handle).st_size
    try:
        written = os.write(handle, line)
        if written != len(line):
            os.ftruncate(handle, start)
            raise CodegenError(f"can't write the result to {path}: only {written} of {len(line)} bytes fitted")
        os.fsync(handle)
    except OSError as error:
        raise CodegenError(f"can't write the result to {path}: {error.strerror}") from None


def told(result: Result) -> str:
    """A result in a few words."""
    answer = result.answer
    if answer["status"] != "ok":
        return f"{answer['status']}: {answer.get('reason', '')}"
    return f"{answer['aten_seconds'] / answer['seconds']:.3f} x ATen"


def main(arguments: Iterable[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Measures the candidates of a batch that have no result yet.")
    parser.add_argument("directory", type=Path, help="what 'codegen measure export' wrote")
    directory = parser.parse_args(None if arguments is None else list(arguments)).directory
    try:
        skipped = run(directory, lambda request, result: print(f"{request.id} {told(result)}", flush=True))
        count, total = len(results(directory)), len(requests(directory))
    except CodegenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the results so far are in {directory / RESULTS}", file=sys.stderr)
        return 130
    for target, number in skipped.items():
        print(f"left out: {number} candidates for {target}, which this machine does not run")
    print(f"{directory / RESULTS}: {count} of {total} candidates are measured")
    return 0


if __name__ == "__main__":
    sys.exit(main())
