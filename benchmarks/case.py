"""What a benchmark times: a case names a workload, a problem is one with its tensors made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Invocation:
    """A function and what it is called with."""

    fn: Callable[..., Tensor]
    args: tuple[Any, ...]

    def bind(self) -> Callable[[], Tensor]:
        """The call without arguments; a `partial`, because it costs less per call than a lambda."""
        return partial(self.fn, *self.args)


@dataclass(frozen=True)
class Problem:
    """The same computation, as each peer is asked for it.

    `eager` also is the reference: it is run once more on float64 copies of its arguments.
    `traced` is what `torch.compile` gets; `frozen` lets it treat parameters as constants.
    """

    eager: Invocation
    ours: Invocation
    traced: Invocation
    frozen: bool = False
    no_grad: bool = False


@dataclass(frozen=True)
class Case:
    """One row of a benchmark: `make(seed)` gives its problem; `bytes` counts every tensor touched once."""

    op: str
    suite: str
    name: str
    flops: int
    bytes: int
    make: Callable[[int], Problem]
