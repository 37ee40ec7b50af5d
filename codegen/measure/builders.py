"""Candidates to packs, several at a time, by helper processes that have TVM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from queue import LifoQueue

from ..spaces.space import Choice
from ..target import Target
from ..worker import Worker, WorkerError
from ..workload import Workload

BUILD_LIMIT = 120.0  # seconds that a candidate may take to be built


class Builders:
    """Helper processes, ``codegen.measure.build``, that start when they are first needed.

    Args:
        directory: where packs and the leaves that they share go.
        processes: how many build at a time; by default one a core.
    """

    def __init__(
        self, workload: Workload, target: Target, space: str, directory: Path, processes: int | None = None
    ) -> None:
        self._common = {"workload": workload.key, "target": target.name, "space": space}
        self._directory, self._numbers = directory, count()
        found = processes or len(os.sched_getaffinity(0))
        self._everyone = [Worker(f"{__package__}.build") for _ in range(found)]
        self._free: LifoQueue[Worker] = LifoQueue()  # the last one is already started
        for worker in self._everyone:
            self._free.put(worker)

    def build(self, choices: Sequence[Choice]) -> list[Path | WorkerError]:
        """The pack of each choice, or why there is none; in order. Nothing is being built when it returns."""
        if len(choices) == 1:
            return [self._one(choices[0])]
        with ThreadPoolExecutor(len(self._everyone)) as pool:
            try:
                return list(pool.map(self._one, choices))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.close()  # what waits for a helper goes on, and sees it gone
                raise

    def close(self) -> None:
        """Ends the helpers."""
        for worker in self._everyone:
            worker.close()

    def _one(self, choice: Choice) -> Path | WorkerError:
        directory = self._directory / f"candidate-{next(self._numbers)}"
        request = {**self._common, "knobs": dict(choice), "directory": str(directory)}
        request["leaves"] = str(self._directory / "leaves")
        worker = self._free.get()
        try:
            answer = worker.call(request, BUILD_LIMIT)
        except WorkerError as error:
            return WorkerError(error.status, f"build: {error}")
        finally:
            self._free.put(worker)
        if answer["status"] != "ok":
            return WorkerError(answer["status"], f"build: {answer['reason']}")
        return Path(answer["pack"])
