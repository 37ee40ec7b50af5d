"""Which candidate to try next. One file a strategy, found by name, with one interface (see ``strategy``).

A strategy's module has ``create(space, seed)``, which returns a :class:`.strategy.Strategy`; it may take options by
name. The name of ``constrained_genetic.py`` is ``constrained-genetic``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any, cast

from ..errors import CodegenError
from ..spaces.space import Space
from .strategy import Strategy

_NO_STRATEGIES = {"strategy", "economy"}


def all_strategies() -> list[str]:
    """The names of all strategies."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NO_STRATEGIES and m.name[0] != "_")
    return sorted(name.replace("_", "-") for name in modules)


def load(name: str, space: Space, seed: int, **options: Any) -> Strategy:
    """A fresh strategy over a space. ``options``: what its ``create`` takes besides, such as a cost model.

    Raises:
        CodegenError: no strategy has this name, it does not take such an option, or it can't search this space.
    """
    if name not in all_strategies():
        raise CodegenError(f"unknown strategy {name!r}; known: {', '.join(all_strategies())}")
    create = importlib.import_module(f".{name.replace('-', '_')}", __package__).create
    for option in options:
        if option not in inspect.signature(create).parameters:
            raise CodegenError(f"the strategy {name!r} takes no option {option!r}")
    return cast(Strategy, create(space, seed, **options))
