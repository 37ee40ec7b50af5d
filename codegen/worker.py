"""A helper process that answers requests: one JSON object a line in, one out."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Where this package is importable from: the repository, or site-packages.
_ROOT = Path(__file__).resolve().parents[__name__.count(".")]


class WorkerError(RuntimeError):
    """The helper is gone; ``status`` says how, as in a record."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Worker:
    """Runs ``python -m module``, which calls :func:`serve`, and restarts it after it died.

    Args:
        env: environment variables for it, besides this process's.
        grace: seconds that it has, once no request can come any more, to end by itself.
    """

    def __init__(self, module: str, env: Mapping[str, str] | None = None, grace: float = 0.0) -> None:
        self._module, self._grace = module, grace
        self._env = {**os.environ, **(env or {})}
        self._env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker

    def call(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            WorkerError: it took longer than ``limit`` seconds, or the process died.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: reading says how
            process.stdin.write(json.dumps({**request, "limit": limit}).encode() + b"\n")
            process.stdin.flush()
        try:
            line = self._read_line(process, time.monotonic() + limit)
        except BaseException:
            self.close()
            raise
        if line is None:
            self.close()
            raise WorkerError("hung", f"no answer within {limit:g} s")
        if not line.endswith(b"\n"):
            code = process.wait()
            said = self._last_words()
            self.close()
            if code < 0:
                raise WorkerError("crashed", f"killed by {signal.Signals(-code).name}")
            raise WorkerError("failed", said or f"exit status {code}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ready(self, limit: float) -> None:
        """Starts the process if it does not run, or not any more, and waits until it can answer at once.

        The module's requests have a ``what``; it answers to ``ready``.

        Raises:
            WorkerError: it took longer than ``limit`` seconds, or the process died.
        """
        if self._process is not None:
            with contextlib.suppress(WorkerError):
                self.call({"what": "ready"}, limit)
                return
        self.call({"what": "ready"}, limit)

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.stdin and process.stdin.close()
        if self._grace:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._grace)
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            process.stdout and process.stdout.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._errors.seek(0)
        self._errors.truncate()
        command = [sys.executable, "-m", self._module]
        # A session of its own: Ctrl-C is for the search, which then ends its helpers.
        self._process = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=self._errors, env=self._env, start_new_session=True
        )
        return self._process

    @staticmethod
    def _read_line(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
        """A line; less than one if the process ended, None if the deadline passed."""
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return None
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                break
            line += part
        return line

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Answers requests on standard input until it ends. An exception is an answer too: its status is ``failed``."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(math.ceil(request["limit"]) + 10)  # ends this process even if the search was killed meanwhile
        try:
            reply = answer(request)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            reply = {"status": "failed", "reason": f"{type(error).__name__}: {first}"}
        signal.alarm(0)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
