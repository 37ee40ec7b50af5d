"""The worker from outside: started when it is needed, ended when it does not answer."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Seconds until a worker has imported torch and answers.
START = 120.0


def environment(root: Path) -> dict[str, str]:
    """Of a process that finds the packages in ``root`` before others."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}


class Client:
    """Asks a worker one thing after the other; a new one takes the place of one that crashed or hung."""

    def __init__(self, device: str, root: Path) -> None:
        self._device, self._root = device, root
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def ask(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a task, or one with the status hung or crashed."""
        fresh = self._process is None
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
            line = self._line(process, seconds + (START if fresh else 0.0))
        except (BrokenPipeError, EOFError):
            return {"status": "crashed", "reason": self._end() or "the process ended"}
        except TimeoutError:
            self._end()
            return {"status": "hung", "reason": f"no answer within {seconds:.0f} s"}
        found: dict[str, Any] = json.loads(line)
        if found["status"] == "crashed" and self._device == "cuda":
            self._end()
        return found

    def close(self) -> None:
        """Ends the worker."""
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.worker", self._device],
            cwd=self._root,
            env=environment(self._root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        return self._process

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes:
        assert process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError
            more = os.read(process.stdout.fileno(), 1 << 16)
            if not more:
                raise EOFError
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _end(self) -> str:
        """Ends the process. Returns the last line of what it said on stderr."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()
        process.communicate()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self._errors.close()
        return f"exit status {process.returncode}: {lines[-1][:300]}" if lines else f"exit status {process.returncode}"
