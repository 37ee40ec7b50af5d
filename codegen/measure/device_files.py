"""What a batch of GPU kernels holds: sources, what to ask about each, and what was found. No TVM here.

- ``targets.json``: by target its compute capability.
- ``requests.jsonl``: a :class:`DeviceRequest` a line; ``sources/ID.cu`` is the source of each.
- ``results/CARD.jsonl``: a :class:`.batch_files.Result` a line, as they come; of two of a kernel the later one counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CodegenError
from .batch_files import REQUESTS, Result, identified, lines

TARGETS, SOURCES, RESULTS = "targets.json", "sources", "results"


@dataclass(frozen=True)
class Point:
    """Sizes that a kernel is timed at; ``epilogue``: of a GEMM, an activation's name, after a bias."""

    sizes: Mapping[str, int]
    epilogue: str = ""

    @staticmethod
    def of(found: Mapping[str, Any]) -> Point:
        """From JSON."""
        return Point(dict(found["sizes"]), found.get("epilogue", ""))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"sizes": dict(self.sizes), **({"epilogue": self.epilogue} if self.epilogue else {})}

    @property
    def text(self) -> str:
        """For people."""
        sizes = "x".join(str(v) for name, v in self.sizes.items() if not (name == "batch" and v == 1))
        return f"{sizes} {self.epilogue}".strip()


@dataclass(frozen=True)
class DeviceRequest:
    """A kernel of a batch.

    ``operands``: of a row program, [name, role, written, dtype] in order. ``points``: what is timed; ``predicted``: the
    seconds that the model expects there. ``plan``: by size bucket of the kernel's plan, the sizes that decide; empty
    where the plan is not asked for.
    """

    workload: str
    target: str
    space: str
    knobs: dict[str, int]
    driver: str
    symbol: str
    params: dict[str, int]
    source: str  # the SHA-256 of its file
    points: list[dict[str, Any]]
    predicted: list[float | None]
    seed: int
    strategy: str
    trial: int
    tvm: str
    workspace: bool = False
    shipped: bool = False
    operands: list[list[Any]] = field(default_factory=list)
    plan: list[list[dict[str, Any]]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Tells the kernel from all others."""
        content = [self.workload, self.target, self.space, sorted(self.knobs.items()), self.seed, self.source]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """One line, without its end."""
        return json.dumps({"format": 1, "id": self.id, **vars(self)}, separators=(",", ":"))

    def file(self, directory: Path) -> Path:
        """Its source in a batch."""
        return directory / SOURCES / f"{self.id}.cu"

    @property
    def all_points(self) -> list[Point]:
        """``points``, as they were written."""
        return [Point.of(p) for p in self.points]

    @property
    def seconds(self) -> float:
        """What the model expects of the points together; unknown ones count as nothing."""
        return sum(p or 0.0 for p in self.predicted)


def requests(directory: Path) -> dict[str, DeviceRequest]:
    """The kernels of a batch by their identity, in order.

    Raises:
        CodegenError: there is no batch, or a line is broken.
    """
    path = directory / REQUESTS
    if not path.is_file():
        raise CodegenError(f"{directory} is no batch of GPU kernels: there is no {REQUESTS}")
    return identified(path, DeviceRequest, "kernel")


def targets(directory: Path) -> dict[str, dict[str, Any]]:
    """What a batch says of its targets: ``capability``, [major, minor].

    Raises:
        CodegenError: the file is not there, or broken.
    """
    path = directory / TARGETS
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CodegenError(f"can't read {path}: {error}") from None
    return found


def is_device_batch(directory: Path) -> bool:
    """Whether a directory holds a batch of GPU kernels."""
    return (directory / TARGETS).is_file()


def results_file(directory: Path, card: str) -> Path:
    """Where the results of a card lie."""
    return directory / RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-') or 'card'}.jsonl"


def results(path: Path) -> dict[str, tuple[int, Result]]:
    """The results of a file by identity, with the numbers of their lines; of two the later one.

    Raises:
        CodegenError: a line is broken.
    """
    found: dict[str, tuple[int, Result]] = {}
    for number, line in lines(path):
        try:
            result = Result(**line)
        except TypeError as error:
            raise CodegenError(f"{path}:{number}: not a result: {error}") from None
        found[result.id] = (number, result)
    return found


def suits(capability: tuple[int, int], target: str, about: Mapping[str, Any]) -> bool:
    """Whether a device runs machine code of a target: of the same major version, and not of a later minor one.

    A target whose name ends in "a" is for exactly its own capability. Source: CUDA C++ Programming Guide, "Binary
    compatibility".
    """
    major, minor = about["capability"]
    if target.endswith("a"):
        return capability == (major, minor)
    return capability[0] == major and capability[1] >= minor
