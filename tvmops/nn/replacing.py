"""Swapping the modules of a model for their tvmops counterparts."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tvmops.nn.linear import Linear


class Replaced(NamedTuple):
    """One module that was swapped."""

    name: str
    before: str
    after: str


def replace(model: torch.nn.Module) -> list[Replaced]:
    """Swaps every :class:`torch.nn.Linear` within ``model`` for a :class:`tvmops.nn.Linear`, in place.

    Parameters are shared, so ``state_dict``, optimizers and tied weights keep working; hooks stay. A subclass of
    ``torch.nn.Linear`` is left alone, as it may compute something else. A module that the model holds in several places
    is swapped for one and the same.

    Args:
        model: any module; if it is itself a ``torch.nn.Linear``, use :meth:`tvmops.nn.Linear.from_torch` instead.

    Returns:
        What was swapped: the qualified name, the old and the new module's description.

    Raises:
        TypeError: ``model`` is not a module, or itself a plain ``torch.nn.Linear``, which cannot be swapped in place.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"replace takes a torch.nn.Module, not {type(model).__name__}")
    if type(model) is torch.nn.Linear:
        raise TypeError("a torch.nn.Linear can't be swapped in place: use tvmops.nn.Linear.from_torch(module)")
    swapped: list[Replaced] = []
    new_for_old: dict[int, Linear] = {}
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is not torch.nn.Linear:
                continue
            if id(child) not in new_for_old:
                new_for_old[id(child)] = Linear.from_torch(child)
                qualified = f"{parent_name}.{name}" if parent_name else name
                swapped.append(Replaced(qualified, repr(child), repr(new_for_old[id(child)])))
            parent._modules[name] = new_for_old[id(child)]
    return swapped
