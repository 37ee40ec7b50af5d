"""What a batch holds: a directory of packs, what to ask about each, and what was found. No TVM here.

- ``requests.jsonl``: a :class:`Request` a line; ``packs/ID.so`` is the pack of each.
- ``results.jsonl``: a :class:`Result` a line, as they come.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import CodegenError

FORMAT = 1
REQUESTS, RESULTS, PACKS = "requests.jsonl", "results.jsonl", "packs"


class Identified(Protocol):
    """What has an identity, made of all that it says."""

    @property
    def id(self) -> str: ...  # noqa: D102 - told above


R = TypeVar("R", bound=Identified)


@dataclass(frozen=True)
class Request:
    """A candidate of a batch, and how it is to be measured."""

    workload: str
    target: str
    space: str
    knobs: dict[str, int]
    seed: int
    threads: list[int]
    rounds: int
    limit: float  # seconds
    strategy: str  # that proposed it
    trial: int
    tvm: str  # that built it
    pack: str  # the SHA-256 of its file
    code_bytes: int  # machine code in it

    @property
    def id(self) -> str:
        """Tells the candidate, and how it is measured, from all others."""
        content: list[Any] = [self.workload, self.target, self.space, sorted(self.knobs.items())]
        content += [self.seed, self.threads, self.rounds, self.pack]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps({"format": FORMAT, "id": self.id, **vars(self)}, separators=(",", ":"))

    def file(self, directory: Path) -> Path:
        """Its pack in a batch."""
        return directory / PACKS / f"{self.id}.so"


@dataclass(frozen=True)
class Result:
    """What became of a candidate. ``answer`` is that of ``child.py``, or holds the status and the reason alone."""

    id: str
    machine: dict[str, Any]
    date: str  # UTC
    answer: dict[str, Any]

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps({"format": FORMAT, **vars(self)}, separators=(",", ":"))


def digest(pack: Path) -> str:
    """The SHA-256 of a file, as a request has it of its pack."""
    return hashlib.sha256(pack.read_bytes()).hexdigest()


def mend(path: Path) -> None:
    """Cuts off what a killed process left of the last line of a file, if it is there."""
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, with their numbers; none if it is not there. A cut-off last line is no line.

    Raises:
        CodegenError: a line is no object of this format, or of a newer one.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise CodegenError(f"{path}:{number}: not JSON: {error}") from None
        version = found.pop("format", None) if isinstance(found, dict) else None
        if not isinstance(version, int):
            raise CodegenError(f"{path}:{number}: not a line of a batch")
        if version != FORMAT:
            raise CodegenError(f"{path}:{number}: format {version} is not {FORMAT}, the one that this version reads")
        yield number, found


def requests(directory: Path) -> dict[str, Request]:
    """The candidates of a batch by their identity, in order.

    Raises:
        CodegenError: there is no batch, or a line is broken.
    """
    path = directory / REQUESTS
    if not path.is_file():
        raise CodegenError(f"{directory} is no batch: there is no {REQUESTS}")
    return identified(path, Request, "candidate")


def identified(path: Path, kind: type[R], what: str) -> dict[str, R]:
    """The lines of a file as requests of a kind by their identity, in order. ``what`` is what errors call them.

    Raises:
        CodegenError: a line is broken.
    """
    found: dict[str, R] = {}
    for number, line in lines(path):
        name = line.pop("id", None)
        try:
            request = kind(**line)
            same = request.id == name
        except (TypeError, AttributeError) as error:
            raise CodegenError(f"{path}:{number}: not a {what}: {error}") from None
        if not same:
            raise CodegenError(f"{path}:{number}: {name} is not the identity of this {what}, which is {request.id}")
        found[request.id] = request
    return found


def results(directory: Path) -> list[tuple[int, Result]]:
    """The results of a batch, with the numbers of their lines.

    Raises:
        CodegenError: a line is broken.
    """
    path, found = directory / RESULTS, []
    for number, line in lines(path):
        try:
            found.append((number, Result(**line)))
        except TypeError as error:
            raise CodegenError(f"{path}:{number}: not a result: {error}") from None
    return found
