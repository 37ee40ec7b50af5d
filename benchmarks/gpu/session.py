"""What a run has to work with: the batch, the time that is left, what is known already and where more of it goes."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codegen.measure import device_files
from codegen.measure.batch_files import Result, mend
from codegen.measure.device_files import DeviceRequest

#: The parts of a run in order, and by which share of its time each must be over.
PARTS: Mapping[str, float] = {
    "card": 0.06,
    "build": 0.30,
    "time": 0.50,
    "calls": 0.56,
    "tests": 0.63,
    "sanitizer": 0.69,
    "tune": 0.84,
    "plan": 0.92,
    "inductor": 0.99,
}


class Budget:
    """Minutes, shared out: what a part leaves over is for those after it."""

    def __init__(self, minutes: float) -> None:
        self._start, self._seconds = time.monotonic(), 60.0 * minutes

    def left(self, part: str) -> float:
        """Seconds until a part must be over; below 0 when it should have been."""
        return self._start + PARTS[part] * self._seconds - time.monotonic()

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


@dataclass
class Session:
    """One run, on one card. Results are on disk as soon as they are known."""

    directory: Path  # of the batch, and of the sources beside it
    device: str
    budget: Budget
    machine: dict[str, Any]
    requests: list[DeviceRequest]  # those that this card runs
    path: Path = field(init=False)
    known: dict[str, dict[str, Any]] = field(init=False)  # answers by identity
    parts: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.path = device_files.results_file(self.directory, self.machine["gpu"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mend(self.path)
        self.known = {name: result.answer for name, (_, result) in device_files.results(self.path).items()}
        self._parts = self.path.with_suffix(".json")
        self.parts = json.loads(self._parts.read_text()) if self._parts.exists() else {}

    @property
    def shipped(self) -> list[DeviceRequest]:
        """The kernels that ship."""
        return [r for r in self.requests if r.shipped]

    def keep(self, request: DeviceRequest, answer: dict[str, Any]) -> None:
        """Writes down an answer; of a kernel that has one already, the new one holds the old one's, too."""
        before = self.known.get(request.id, {})
        merged = {**before, **answer} if before.get("status") == answer.get("status") == "ok" else answer
        if "more" in before and "more" in merged:
            merged["more"] = {**before["more"], **merged["more"]}
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = Result(request.id, {**self.machine, "tvm": request.tvm}, now, merged).to_json().encode() + b"\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        self.known[request.id] = merged

    def keep_part(self, name: str, found: dict[str, Any]) -> None:
        """Writes down what a part came to."""
        self.parts[name] = found
        fresh = self._parts.with_suffix(".tmp")
        fresh.write_text(json.dumps(self.parts, indent=1) + "\n")
        fresh.replace(self._parts)

    def ok(self, request: DeviceRequest) -> bool:
        """Whether a kernel was found right, and timed."""
        return self.known.get(request.id, {}).get("status") == "ok"
