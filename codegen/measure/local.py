"""Candidates on this machine: the client of ``forkserver``. TVM is needed only to tell its version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CodegenError
from ..worker import Worker, WorkerError
from .runner import Machine

if TYPE_CHECKING:
    from ..target import Target

MEMORY = 8 << 30  # bytes that a candidate may take, beyond what its process has from the start
START_LIMIT = 120.0  # seconds to import torch and tvmops
# Seconds beyond a candidate's limit after which the server is thought dead, and that it has to end its processes.
GRACE = 10.0


class LocalRunner:
    """Runs each candidate in a fork of a process that has imported torch and tvmops.

    Only the target's own kernels serve calls there; what the user set for their own models does not count. The server
    starts with the first request, and again after it died.

    Args:
        target: whose kernels are run, or its name; None to be asked about the machine only.
        memory: bytes that a candidate may take.
        pin: whether a candidate that is timed gets as many cores as it has threads, and always the same ones.
    """

    def __init__(self, target: Target | str | None = None, *, memory: int = MEMORY, pin: bool = True) -> None:
        self._options = {"memory": memory, "pin": pin}
        name = target if isinstance(target, str) else target.name if target else ""
        env = {"TVMOPS_TARGET": name, "TVMOPS_MODE": "", "TVMOPS_PACK_PATH": ""}
        # numpy's library would start threads, which a fork would not have.
        env |= {"TVMOPS_CALIBRATION": "off", "OPENBLAS_NUM_THREADS": "1"}
        self._server = Worker(f"{__package__}.forkserver", env, grace=GRACE)

    def run(self, pack: Path, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """See :class:`.runner.Runner`."""
        self._server.ready(START_LIMIT)  # the candidate's time starts when the server can start it
        answer = self._server.call({**request, **self._options, "pack": str(pack), "seconds": limit}, limit + GRACE)
        if answer.get("gone"):
            raise WorkerError(answer["status"], answer["reason"])
        return answer

    def about(self) -> Machine:
        """Asks the server, so that this process needs neither torch nor the extension.

        Raises:
            CodegenError: tvmops can't be imported.
        """
        import tvm

        machine = self.machine()
        return Machine({**machine.about, "tvm": tvm.__version__}, machine.targets)

    def machine(self) -> Machine:
        """As :meth:`about`, without TVM and its version.

        Raises:
            CodegenError: tvmops can't be imported.
        """
        try:
            self._server.ready(START_LIMIT)
            answer = self._server.call({**self._options, "what": "about", "seconds": START_LIMIT}, START_LIMIT + GRACE)
        except WorkerError as error:
            raise CodegenError(f"tvmops can't be imported here, build the extension first: {error}") from None
        if answer["status"] != "ok":
            raise CodegenError(f"tvmops does not work here: {answer['reason']}")
        return Machine(answer["machine"], tuple(answer["targets"]))

    def close(self) -> None:
        """Ends the server, and with it whatever a candidate left running."""
        self._server.close()
