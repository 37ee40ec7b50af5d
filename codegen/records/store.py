"""The store of trials: JSON lines, one file a target, append-only.

A line is written by one ``write`` to a file opened for appending and then synced, so that searches can share a file and
a killed one loses at most the trial in flight. What is left of a line that was cut off is passed over when reading and
removed at the next append.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from ..errors import CodegenError
from ..workload import Workload
from .schema import FORMAT, SCHEMA


class NewerFormatError(CodegenError):
    """A record of a later version of this program."""


@dataclass(frozen=True)
class Record:
    """A trial. Times are geometric means over ``points``, in seconds a call."""

    workload: str
    target: str
    space: str
    knobs: dict[str, int]
    status: str
    machine: dict[str, Any]
    date: str  # UTC
    seed: int
    strategy: str
    trial: int
    reason: str | None = None  # where status is not ok
    seconds: float | None = None
    aten_seconds: float | None = None
    points: list[dict[str, Any]] = field(default_factory=list)  # what was timed: sizes, threads, both times
    error: float | None = None  # relative Frobenius error against float64, the worst of the checks
    aten_error: float | None = None  # of ATen, in the same check
    spread: float | None = None  # of the samples: interquartile range over median, typical of the points
    noisy: bool | None = None  # True: the machine was found to have changed while the search went on
    workspace_bytes: int | None = None  # memory that is kept between calls
    code_bytes: int | None = None  # machine code
    joules: float | None = None  # a call, geometric mean over points, where the machine tells
    plan: str | None = None  # the route by size bucket, one hexadecimal digit each; None: not measured
    ratios: list[float | None] | None = None  # ATen's time over the kernel's by size bucket, where measured

    @property
    def ratio(self) -> float:
        """How many times faster than ATen; 0 if the trial is not ok."""
        if self.status != "ok" or not self.seconds or not self.aten_seconds:
            return 0.0
        return self.aten_seconds / self.seconds

    def routes(self) -> list[int] | None:
        """The plan as numbers."""
        return None if self.plan is None else [int(digit, 16) for digit in self.plan]

    def to_json(self) -> str:
        """One line, without its end."""
        values = {k: v for k, v in asdict(self).items() if v is not None and not (k == "points" and not v)}
        return json.dumps({"format": FORMAT, **values}, allow_nan=False, separators=(",", ":"))


_FIELDS = {f.name for f in fields(Record)}


@functools.cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(SCHEMA)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def parse(line: str | bytes) -> Record:
    """The record of a line.

    Raises:
        CodegenError: it is none, or of a newer format; says why.
    """
    try:
        data = json.loads(line, parse_constant=_no_number)
    except ValueError as error:
        raise CodegenError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise CodegenError("not a JSON object")
    version = data.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise NewerFormatError(f"record format {version} is newer than {FORMAT}, the newest this version reads")
    wrong = next(_validator().iter_errors(data), None)
    if wrong is not None:
        where = wrong.json_path.removeprefix("$").removeprefix(".")
        raise CodegenError(f"{where}: {wrong.message}" if where else wrong.message)
    return Record(**{k: v for k, v in data.items() if k in _FIELDS})


def read(path: Path, *, strict: bool = False) -> list[Record]:
    """The records of a file, in order; none if it is not there.

    A line that is no record is named in a warning and skipped, or refused if ``strict``. So is a last line that was cut
    off, without a warning: a search was killed there.

    Raises:
        CodegenError: the file can't be read, it holds a newer format, or (``strict``) a bad line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CodegenError(f"can't read the records in {path}: {error.strerror}") from None
    records = []
    *lines, rest = content.split(b"\n")
    for number, line in enumerate([*lines, rest], 1):
        if not line.strip():
            continue
        try:
            records.append(parse(line))
        except CodegenError as error:
            torn = number > len(lines)
            if isinstance(error, NewerFormatError) or (strict and not torn):
                raise CodegenError(f"{path}:{number}: {error}") from None
            if not torn:
                warnings.warn(f"{path}:{number}: skipped, {error}", stacklevel=2)
    return records


def append(path: Path, record: Record) -> None:
    """Adds a record to a file, which is made if it is not there. On disk when this returns.

    Raises:
        CodegenError: the record is not valid, or the file can't be written (or only in part, as when the disk is full).
    """
    text = record.to_json()
    parse(text)
    line = text.encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # between looking at the end and writing there
            start = os.fstat(handle).st_size
            start = _whole_lines(handle, start)
            written = os.write(handle, line)
            if written != len(line):
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, start)
                raise CodegenError(f"can't write the record to {path}: only {written} of {len(line)} bytes fitted")
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise CodegenError(f"can't write the record to {path}: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Makes sure, before a long search, that records can be added to a file.

    Raises:
        CodegenError: they can't.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise CodegenError(f"can't write records to {path}: {error.strerror}") from None


def _whole_lines(handle: int, size: int) -> int:
    """Ends the last line of a file if only that lacks, or cuts off what a killed search left of it."""
    tail = b""
    start = size
    while start and b"\n" not in tail:
        start = max(0, start - (64 << 10))
        tail = os.pread(handle, size - start, start)
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return size
    try:
        parse(tail)
    except NewerFormatError:
        raise
    except CodegenError:
        os.ftruncate(handle, size - len(tail))
        return size - len(tail)
    os.write(handle, b"\n")
    return size + 1


def rewrite(path: Path, records: Iterable[Record]) -> None:
    """Replaces a file by these records, in one step.

    Raises:
        CodegenError: a record is not valid, or the file can't be written.
    """
    lines = [record.to_json() for record in records]
    for line in lines:
        parse(line)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "w") as file:
                file.writelines(line + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise CodegenError(f"can't write the records to {path}: {error.strerror}") from None


def append_new(directory: Path, records: Sequence[Record]) -> tuple[list[Record], int]:
    """Adds those records to the files of their targets that are not there yet.

    Returns:
        What was added, and how many were there before.

    Raises:
        CodegenError: as :func:`append`.
    """
    added, known = [], 0
    for target in dict.fromkeys(r.target for r in records):
        path = file_of(directory, target)
        there = {r.to_json() for r in read(path)}
        for one in records:
            if one.target != target:
                continue
            if one.to_json() in there:
                known += 1
                continue
            append(path, one)
            there.add(one.to_json())
            added.append(one)
    return added, known


def file_of(directory: Path, target: str) -> Path:
    """Where the records of a target lie."""
    return directory / f"{target}.jsonl"


def matching(records: Iterable[Record], workload: Workload, target: str) -> list[Record]:
    """Those of a workload on a target."""
    return [r for r in records if r.workload == workload.key and r.target == target]


def best(records: Iterable[Record], workload: Workload, target: str) -> Record | None:
    """The record that a kernel is made from: the winner of those of a workload on a target."""
    return winner(matching(records, workload, target))


def winner(records: Iterable[Record]) -> Record | None:
    """Of those that are ok the fastest against ATen, those with a plan first.

    A plan is measured for the winners of a search, whose times are then taken again, with more rounds.
    """
    good: Sequence[Record] = [r for r in records if r.status == "ok"]
    return max(good, key=lambda r: (r.plan is not None, r.ratio), default=None)
