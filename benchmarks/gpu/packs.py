"""The pack of the kernels that ship, built by the Makefile that was exported with them, for the extension to load."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from codegen.export import nvcc

#: Where an export has the sources of the kernels that ship.
KERNELS = "kernels"


class Pack:
    """A pack for one target, which is being built."""

    def __init__(self, directory: Path, target: str, jobs: int) -> None:
        self._folder, self._log = directory / KERNELS, directory / "build" / "pack.log"
        self.path = directory / "build" / f"{target}.so"
        self._process: subprocess.Popen[bytes] | None = None
        if not (self._folder / "Makefile").is_file():
            return
        self._log.parent.mkdir(parents=True, exist_ok=True)
        options = [f"TARGETS={target}", f"NVCC={nvcc.find().nvcc}", f"LIBRARY={self.path}"]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                ["nice", "make", "-C", str(self._folder), f"-j{jobs}", *options],
                env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> str:
        """Empty once it is built, else why not."""
        if self._process is None:
            return "no pack was exported"
        try:
            status = self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return "the pack is not built yet"
        lines = self._log.read_text(errors="replace").strip().splitlines()
        wrong = next((line for line in lines if "rror" in line or "***" in line), (lines or [""])[-1])
        return f"the pack could not be built: {wrong[:300]} (see {self._log})" if status else ""

    def close(self) -> None:
        """Ends a build that still runs."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()
