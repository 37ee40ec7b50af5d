"""One file an operator family, found by name: each offers `cases(suite)` and `SUITES`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from benchmarks.case import Case


class Op(Protocol):
    """What a file here offers."""

    SUITES: tuple[str, ...]

    def cases(self, suite: str) -> list[Case]:
        """The cases of one suite; `suite` is one of SUITES."""


def names() -> list[str]:
    """The operator families that have a benchmark."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Op:
    """The benchmark of one family; `name` is one of `names()`."""
    return cast(Op, importlib.import_module(f"{__name__}.{name}"))
