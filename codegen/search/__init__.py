"""Which candidate to try next. One file a strategy, found by name, with one interface (see ``strategy``).

A strategy's module has ``create(space, seed)``, which returns a :class:`.strategy.Strategy`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from ..errors import CodegenError
from ..spaces.space import Space
from .strategy import Strategy

_INTERFACE = "strategy"


def all_strategies() -> list[str]:
    """The names of all strategies."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != _INTERFACE and m.name[0] != "_")


def load(name: str, space: Space, seed: int) -> Strategy:
    """A fresh strategy over a space.

    Raises:
        CodegenError: no strategy has this name.
    """
    if name not in all_strategies():
        raise CodegenError(f"unknown strategy {name!r}; known: {', '.join(all_strategies())}")
    return cast(Strategy, importlib.import_module(f".{name}", __package__).create(space, seed))
