"""Compiles the sources of kernels, several at a time, and the extension beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.compilers import CompileError, compile_source
from codegen.export import nvcc
from codegen.measure.device_files import DeviceRequest


@dataclass(frozen=True)
class Built:
    """A library, or why there is none; registers and spilled bytes are the worst of its functions'."""

    library: Path | None
    reason: str = ""
    registers: int = 0
    spilled: int = 0

    def about(self) -> dict[str, Any]:
        """For results."""
        return {"registers": self.registers, "spilled": self.spilled} if self.registers else {}


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Builds:
    """Libraries that are being made. What an earlier run made is taken as it is."""

    def __init__(self, device: str, directory: Path, jobs: int) -> None:
        self._device, self._directory = device, directory
        self._pool = ThreadPoolExecutor(jobs)
        self._futures: dict[str, Future[Built]] = {}

    def start(self, requests: Iterable[DeviceRequest]) -> None:
        """Puts these into the queue, those that are there already left out."""
        for request in requests:
            if request.id not in self._futures:
                self._futures[request.id] = self._pool.submit(self._build, request)

    def result(self, request: DeviceRequest, seconds: float) -> Built:
        """Of one, waited for.

        Raises:
            TimeoutError: it is not ready within so many seconds.
        """
        return self._futures[request.id].result(max(0.0, seconds))

    def wait(self, seconds: float, every: bool = True) -> int:
        """Waits until all are made, or any that was not. Returns how many are not."""
        left = [f for f in self._futures.values() if not f.done()]
        if left:
            wait(left, max(0.0, seconds), "ALL_COMPLETED" if every else FIRST_COMPLETED)
        return sum(not f.done() for f in self._futures.values())

    def ready(self, request: DeviceRequest) -> bool:
        """Whether it is made."""
        return self._futures[request.id].done()

    def close(self) -> None:
        """Drops what has not begun; waits for the rest."""
        self._pool.shutdown(cancel_futures=True)

    def _build(self, request: DeviceRequest) -> Built:
        made = self._directory / "build" / request.target / f"{request.id}.so"
        said = made.with_suffix(".txt")
        if not (made.exists() and said.exists()):
            source, include = request.file(self._directory), self._directory / "csrc" / "runtime"
            try:
                said.parent.mkdir(parents=True, exist_ok=True)
                text = compile_source(self._device, source, include, request.target, made)
            except CompileError as error:
                return Built(None, _first(str(error)))
            said.write_text(text)
        usages = nvcc.usages(said.read_text())
        registers, spilled = (
            max((getattr(u, name) for u in usages), default=0) for name in ("registers", "spill_stores")
        )
        return Built(made, "", registers, spilled)


def _first(said: str) -> str:
    """The first error of a compiler."""
    lines = said.splitlines() or ["the compiler failed"]
    return next((line for line in lines if "error" in line), lines[0])[:300]


class Extension:
    """``tvmops._C``, built from the carried sources against the torch that is here."""

    def __init__(self, root: Path, jobs: int) -> None:
        self._root, self._log = root, root / "build" / "extension.log"
        self._process: subprocess.Popen[bytes] | None = None
        if not self.works():
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    ["nice", sys.executable, "setup.py", "build_ext", "--inplace"],
                    cwd=root,
                    env={**os.environ, "MAX_JOBS": str(jobs), "TVMOPS_NO_PACK": "1"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def works(self) -> bool:
        """Whether it can be imported."""
        if not list((self._root / "tvmops").glob("_C*.so")):
            return False
        tried = subprocess.run([sys.executable, "-c", "import tvmops._C"], cwd=self._root, capture_output=True)
        return tried.returncode == 0

    def wait(self, seconds: float) -> str:
        """Empty once it can be imported, else why not."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, seconds))
            except subprocess.TimeoutExpired:
                return "the extension is not built yet"
        if self.works():
            return ""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        wrong = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["no reason was given"]
        return f"the extension could not be built: {wrong[0][:300]} (see {self._log})"

    def close(self) -> None:
        """Ends a build that still runs."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)  # its compilers too
            self._process.wait()
