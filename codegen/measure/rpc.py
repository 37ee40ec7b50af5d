"""Candidates on another machine: the client of a farm of servers that a TVM RPC tracker hands out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm

from ..errors import CodegenError
from ..target import Target
from ..worker import Worker, WorkerError
from . import tracker as tracking
from .local import GRACE, START_LIMIT
from .runner import Machine

WAIT = 60.0  # seconds for a server to become free
CONNECT_LIMIT = 30.0  # seconds to import TVM and to connect to a server
# Seconds beyond a candidate's own after which its server is thought dead: it may have to start its helper again.
SLACK = START_LIMIT + GRACE + 30.0
TRIES = 2  # servers that a candidate is given
LEAVE = 3.0  # seconds for the client's helper to say goodbye to its server
LOSSES = 8  # servers that may be lost as soon as they are handed out, before it is no accident


class RpcRunner:
    """Runs each candidate on a server of a farm; one server as long as that lives, then another one.

    Nobody else gets the server until :meth:`close`. A candidate whose server dies or hangs is given to one other; if
    that is lost too, it is the candidate's fault. All servers that it uses are machines of one kind, so that the times
    are those of one machine: others with the same key are left alone.

    Args:
        tracker: the tracker's host and port.
        key: of the servers, see ``rpc_server``.
        target: whose kernels are run; None to be asked about the machine only. It may be set later.
        wait: seconds for a server to become free.
        slack: seconds beyond a candidate's own after which its server is thought dead.
    """

    def __init__(
        self,
        tracker: tracking.Address,
        key: str,
        target: Target | None = None,
        *,
        wait: float = WAIT,
        slack: float = SLACK,
    ) -> None:
        self._tracker, self._key, self.target = tracker, key, target
        self._wait, self._slack = wait, slack
        self._worker: Worker | None = None
        self._machine: Machine | None = None

    def run(self, pack: Path, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """See :class:`.runner.Runner`.

        Raises:
            WorkerError: it did not come to an end, or two servers were lost while it ran.
            CodegenError: the tracker is not reached, or no server is left.
        """
        about = {"what": "run", "pack": str(pack), "request": dict(request), "limit": limit}
        losses = []
        for _ in range(TRIES):
            worker = self._worker or self._connect()
            try:
                answer = self._ask(worker, about, limit + self._slack)
            except WorkerError as error:
                self._lose(worker)
                losses.append(str(error))
                continue
            if "gone" in answer:
                raise WorkerError(*answer["gone"])
            return dict(answer["answer"])
        raise WorkerError("crashed", f"{TRIES} servers were lost while it ran: {'; '.join(losses)}")

    def about(self) -> Machine:
        """The machine of the server.

        Raises:
            CodegenError: the tracker is not reached, or no server is free.
        """
        if self._machine is None:
            self._connect()
        assert self._machine is not None
        return self._machine

    def close(self) -> None:
        """Gives the server back."""
        if self._worker is not None:
            self._lose(self._worker)

    def _lose(self, worker: Worker) -> None:
        worker.close()
        self._worker = None

    def _connect(self) -> Worker:
        """A server of the same kind as the first one. Those that turn out dead are not handed out again."""
        others: list[tuple[Worker, Machine]] = []  # held, so that the tracker does not hand them out again
        try:
            losses: list[str] = []
            while len(losses) < LOSSES:
                try:
                    found = tracking.request(self._tracker, self._key, self._wait)
                except CodegenError as error:
                    if not others or self._machine is None:
                        raise
                    kinds = ", ".join(sorted({_kind(machine) for _, machine in others}))
                    raise CodegenError(
                        f"no server for {self._key!r} is left on {_kind(self._machine)}, where this was begun; "
                        f"the others have {kinds}"
                    ) from error
                worker = Worker(f"{__package__}.rpc_client", grace=LEAVE)
                try:
                    machine = self._greet(worker, *found)
                except WorkerError as error:
                    losses.append(str(error))
                    worker.close()
                    continue
                except BaseException:
                    worker.close()
                    raise
                if self._machine is not None and _kind(machine) != _kind(self._machine):
                    others.append((worker, machine))
                    continue
                self._machine, self._worker = self._machine or machine, worker
                return worker
            raise CodegenError(f"servers for {self._key!r} are lost as soon as they are connected to: {losses[-1]}")
        finally:
            for worker, _ in others:
                worker.close()

    def _greet(self, worker: Worker, host: str, port: int, match: str) -> Machine:
        request = {"what": "connect", "host": host, "port": port, "match": match}
        reply = worker.call(request, CONNECT_LIMIT)
        if reply["status"] != "ok":
            raise WorkerError("failed", reply["reason"])
        answer = self._ask(worker, {"what": "about"}, SLACK)
        # Candidates are made here, so that this TVM is the one that counts.
        return Machine({**answer["machine"], "tvm": tvm.__version__}, tuple(answer["targets"]))

    def _ask(self, worker: Worker, about: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """The server's answer.

        Raises:
            WorkerError: the server is lost.
            CodegenError: it can't run any candidates.
        """
        target = self.target.name if self.target else None
        reply = worker.call({"what": "ask", "ask": {**about, "target": target}}, limit)
        if reply["status"] != "ok":
            raise WorkerError("crashed", reply["reason"])
        answer: dict[str, Any] = reply["answer"]
        if "refused" in answer:
            raise CodegenError(f"a server for {self._key!r} can't measure: {answer['refused']}")
        return answer


def _kind(machine: Machine) -> str:
    return f"{machine.about['cpu']}, {machine.about['threads']} threads, torch {machine.about['torch']}"
