"""What runs candidates: on this machine, or on another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Machine:
    """Where measurements are taken."""

    about: dict[str, Any]  # as in a record
    targets: tuple[str, ...]  # that it runs, the best first


class Runner(Protocol):
    """Runs candidates, one after the other, each in a process that it may take down."""

    def run(self, pack: Path, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """The answer of ``child.py`` about the candidate in ``pack``.

        Args:
            pack: the shared library with the candidate's kernel.
            request: ``what`` is ``measure`` or ``plan``; with ``workload`` (its key), ``knobs``, ``seed`` and
                ``threads``, and what else :func:`.child.measure` may be told.
            limit: seconds that it may take.

        Raises:
            WorkerError: there is no answer, because the candidate took its process down or did not come to an end.
            CodegenError: the runner itself can't go on, such as one on a machine that is not reached.
        """

    def about(self) -> Machine:
        """The machine that candidates run on.

        Raises:
            CodegenError: it can't run any.
        """

    def close(self) -> None:
        """Ends what was started."""
