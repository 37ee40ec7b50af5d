"""What runs the kernels: a GPU, or, for tests of this package, the CPU in its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

Call = Callable[[], object]


class Device(Protocol):
    """A device that kernels are checked and timed on."""

    where: torch.device
    index: int
    l2_bytes: int
    sample: float  # seconds that one sample of a timing should take at least

    def about(self) -> dict[str, Any]:
        """Of the card, for records: name, capability, driver, and so on."""

    def stream(self) -> int | None:
        """The current stream, as a pointer."""

    def synchronize(self) -> None:
        """Waits for all that was launched.

        Raises:
            RuntimeError: something that was launched failed.
        """

    def release(self) -> None:
        """Gives memory back that is not in use."""

    def repeated(self, calls: Sequence[Call]) -> Call:
        """One call that does all of these: a graph if it can be one, so that launching takes no time of its own."""

    def elapsed(self, call: Call) -> float:
        """Seconds that the device takes for a call."""


class Cuda:
    """The first GPU that torch sees."""

    def __init__(self) -> None:
        self.index = 0
        self.where = torch.device("cuda", self.index)
        torch.cuda.set_device(self.index)
        self._properties = torch.cuda.get_device_properties(self.index)
        self.l2_bytes = int(getattr(self._properties, "L2_cache_size", 0)) or 64 << 20
        self.sample = 2e-3
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def about(self) -> dict[str, Any]:
        p = self._properties
        return {
            "gpu": p.name,
            "capability": [p.major, p.minor],
            "multiprocessors": p.multi_processor_count,
            "memory_bytes": p.total_memory,
            "l2_bytes": self.l2_bytes,
            "cuda": str(torch.version.cuda),
        }

    def stream(self) -> int | None:
        return int(torch.cuda.current_stream(self.index).cuda_stream)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.index)

    def release(self) -> None:
        torch.cuda.empty_cache()

    def repeated(self, calls: Sequence[Call]) -> Call:
        graph, kept = torch.cuda.CUDAGraph(), []
        self.synchronize()
        try:
            with torch.cuda.graph(graph):
                for call in calls:
                    kept.append(call())  # else results would share memory, and stay in the cache
        except RuntimeError:  # what can't be captured is called one by one
            self.synchronize()
            return lambda: [call() for call in calls]
        graph.replay()

        def replay() -> object:
            graph.replay()
            return kept

        return replay

    def elapsed(self, call: Call) -> float:
        start, end = self._events
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3


class Host:
    """The CPU: sources of kernels run in the emulator, others as the C++ that they are. Times mean nothing."""

    def __init__(self) -> None:
        self.index = 0
        self.where = torch.device("cpu")
        self.l2_bytes = 1 << 12
        self.sample = 0.0

    def about(self) -> dict[str, Any]:
        return {"gpu": "emulated", "capability": [0, 0], "l2_bytes": self.l2_bytes}

    def stream(self) -> int | None:
        return None

    def synchronize(self) -> None:
        pass

    def release(self) -> None:
        pass

    def repeated(self, calls: Sequence[Call]) -> Call:
        return lambda: [call() for call in calls]

    def elapsed(self, call: Call) -> float:
        start = time.perf_counter()
        call()
        return max(time.perf_counter() - start, 1e-9)


def make(name: str) -> Device:
    """The device of a name: cuda or emulated."""
    return Cuda() if name == "cuda" else Host()
