"""The server of a farm: a TVM RPC server with one function more, which judges a candidate on its machine.

A session is a process of its own, which TVM forks. Its first request starts a :class:`.local.LocalRunner`, which ends
with it. TVM's RPC knows no passwords: whoever reaches a server can run code on its machine.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm.rpc import server as rpc_server

from ..errors import CodegenError
from ..target import find
from ..worker import WorkerError
from .local import LocalRunner
from .processes import die_with_parent
from .tracker import Address, summary

FUNCTION = "tvmops.measure"
PORTS = 100  # that are tried, from the first one on
PAUSE = 0.1  # seconds before a server that broke off listens again


class _Session:
    """What a session keeps between its requests."""

    def __init__(self) -> None:
        self._target: str | None = None
        self._runner: LocalRunner | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """See :func:`measure`."""
        if self._runner is None:
            die_with_parent()  # or a session would outlive its server
        if self._runner is None or request["target"] != self._target:
            if self._runner is not None:
                self._runner.close()
            self._target = request["target"]
            self._runner = LocalRunner(find(self._target) if self._target else None)
        if request["what"] == "about":
            machine = self._runner.about()
            return {"machine": machine.about, "targets": machine.targets}
        pack = tvm_ffi.get_global_func("tvm.rpc.server.workpath")(request["pack"])
        try:
            return {"answer": self._runner.run(pack, request["request"], request["limit"])}
        except WorkerError as error:
            return {"gone": [error.status, str(error)]}


def _function() -> Callable[[str], str]:
    session = _Session()

    def measure(text: str) -> str:
        """Answers a request; both are JSON.

        ``{"what": "about", "target": NAME or null}`` gives ``machine`` and ``targets``.
        ``{"what": "run", "target": NAME, "pack": FILE, "request": {...}, "limit": SECONDS}``, about a pack that was
        uploaded, gives ``answer``, that of ``child.py``; or ``gone``, the status and the reason, if there was none. If
        this machine can't do it, the answer is ``refused`` with a sentence.
        """
        try:
            return json.dumps(session.answer(json.loads(text)))
        except CodegenError as error:
            return json.dumps({"refused": str(error)})

    return measure


def serve(tracker: Address, key: str, host: str, port: int, address: str | None, ready: Callable[[int], None]) -> None:
    """Serves sessions, one after the other, until it is interrupted.

    Args:
        tracker: that it registers with.
        key: by which clients ask the tracker for a server.
        host: the interface that it listens on.
        port: the first of :data:`PORTS` that it may listen on.
        address: by which clients reach it, if not by the one that the tracker sees.
        ready: called with the port, whenever it begins to listen.

    Raises:
        CodegenError: the tracker is not reached, or no port is free.
    """
    summary(tracker)
    # In the process that listens, because sessions are forks of it.
    tvm_ffi.register_global_func(FUNCTION, _function(), override=True)
    threading.excepthook = lambda _: None  # what ends the thread that listens: a session that crashed
    while True:
        try:
            listening = rpc_server.PopenRPCServerState(
                host, port, port + PORTS, tracker_addr=tracker, key=key, custom_addr=address, silent=True
            )
        except (OSError, ValueError) as error:
            raise CodegenError(f"can't listen on {host}:{port}: {error}") from None
        ready(listening.port)
        try:
            listening.thread.join()
        except KeyboardInterrupt:
            os._exit(130)  # that thread has no other end
        listening.sock.close()
        time.sleep(PAUSE)
