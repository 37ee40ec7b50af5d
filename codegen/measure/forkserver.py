"""Runs each candidate in a fork of a process that has all imported: ``python -m codegen.measure.forkserver``.

There are three generations. The keeper imports torch and tvmops, runs nothing in parallel (a thread would be missing in
a fork) and forks the server. The server forks a process for each request, waits for its answer or its end, and leaves
nothing of it behind. A candidate that kills its parent hits the server: the keeper then says so, and forks another one.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from . import child
from .processes import adopt_orphans, cores, die_with_parent, end_children

# What a candidate may write to files, its output among them, in bytes.
FILES = 16 << 20
# An answer is smaller.
ANSWER = 16 << 20
# What the C++ library, torch and the C library say of memory that was refused.
_REFUSED = (b"bad_alloc", b"an't allocate memory", b"annot allocate memory", b"not enough memory")

Answer = dict[str, Any]


def gone(status: str, reason: str) -> Answer:
    """What is said of a candidate that did not answer."""
    return {"status": status, "reason": reason, "gone": True}


def keep() -> None:
    """Serves requests, one JSON object a line, on standard input until it ends."""
    requests, replies = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    child.warm_up()
    gc.freeze()  # a collection in a fork would copy what it looks at
    adopt_orphans()
    while True:
        server = os.fork()
        if not server:
            _leave(_serve, requests, replies)
        _, status = os.waitpid(server, 0)
        end_children()
        if os.WIFEXITED(status):
            raise SystemExit(os.WEXITSTATUS(status))
        _reply(replies, gone("crashed", "it killed the process that had started it"))


def _leave(what: Any, *arguments: Any) -> None:
    """Ends this fork, when it has done that, without what its parent would do at its end."""
    status = 1
    try:
        what(*arguments)
        status = 0
    except Exception:
        import traceback

        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _reply(replies: int, answer: Mapping[str, Any]) -> None:
    line = json.dumps(answer).encode() + b"\n"
    while line:
        line = line[os.write(replies, line) :]


def _serve(requests: int, replies: int) -> None:
    os.setsid()
    die_with_parent()
    adopt_orphans()
    with tempfile.TemporaryFile() as said, open(requests, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            request = json.loads(line)
            answer = {"status": "ok"} if request["what"] == "ready" else _run(request, said, requests)
            if answer is None:
                return
            _reply(replies, answer)


def _run(request: Mapping[str, Any], said: IO[bytes], requests: int) -> Answer | None:
    """The answer of a candidate; None if nobody wants it any more."""
    said.seek(0)
    said.truncate()
    reader, writer = os.pipe()
    deadline = time.monotonic() + request["seconds"]
    try:
        candidate = os.fork()
        if not candidate:
            _leave(_candidate, request, said.fileno(), writer)
        os.close(writer)
        process = os.pidfd_open(candidate)
        try:
            line = _read(reader, process, requests, deadline)
        finally:
            os.close(process)
            ended = end_children()[candidate]
    finally:
        os.close(reader)
    if line is None:
        return None
    if line.endswith(b"\n"):
        return _parsed(line)
    if line == b"late":
        return gone("hung", f"no answer within {request['seconds']:g} s")
    said.seek(max(0, os.fstat(said.fileno()).st_size - 4096))
    words = said.read()
    if any(text in words for text in _REFUSED):
        return gone("exhausted", "the memory that it may take was not enough")
    if os.WIFSIGNALED(ended):
        return gone("crashed", f"killed by {signal.Signals(os.WTERMSIG(ended)).name}")
    last = words.decode(errors="replace").strip().splitlines()[-1:]
    return gone("failed", ": ".join([f"ended with exit status {os.WEXITSTATUS(ended)} before it answered", *last]))


def _read(reader: int, process: int, requests: int, deadline: float) -> bytes | None:
    """The answer's line; what there is of it if the process ended, ``late`` after the deadline; None: end of requests.

    The process is watched, not only its end of the pipe: what it forked may hold that open.
    """
    poll = select.poll()
    for handle in (reader, process, requests):
        poll.register(handle, select.POLLIN)
    os.set_blocking(reader, False)
    line = b""
    while True:
        left = deadline - time.monotonic()
        ready = [handle for handle, _ in poll.poll(max(0.0, 1e3 * left))]
        if not ready:
            return b"late"
        if requests in ready:
            return None
        with contextlib.suppress(BlockingIOError):
            while part := os.read(reader, 1 << 16):
                line = (line + part)[: ANSWER + 1]
                if b"\n" in part or len(line) > ANSWER:
                    return line.partition(b"\n")[0] + b"\n"
            if reader in ready:
                poll.unregister(reader)  # it was closed; the process may go on
        if process in ready:
            return line


def _parsed(line: bytes) -> Answer:
    """An answer, or that there is none in what a candidate wrote."""
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("status"), str):
        return gone("failed", "its answer is no JSON object with a status")
    return {k: v for k, v in answer.items() if k != "gone"}


def _candidate(request: Mapping[str, Any], said: int, writer: int) -> None:
    """In the fork: answers by one line to ``writer``."""
    os.setsid()
    die_with_parent()
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.closerange(3, writer)
    os.closerange(writer + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory is short, it goes before the search
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that is too much is refused, not deadly
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + request["memory"]
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILES),
        (resource.RLIMIT_AS, space),
    ):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))
    if request["pin"] and request["what"] == "measure":
        os.sched_setaffinity(0, cores(max(request["threads"])))
    try:
        answer = child.answer(dict(request))
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        refused = isinstance(error, MemoryError) or any(text.decode() in str(error) for text in _REFUSED)
        answer = {"status": "exhausted" if refused else "failed", "reason": f"{type(error).__name__}: {first}"}
    _reply(writer, answer)


if __name__ == "__main__":
    keep()
