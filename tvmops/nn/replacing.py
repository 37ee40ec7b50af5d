"""Swapping the modules of a model for their tvmops counterparts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from tvmops.nn import normalization, pointwise, softmax
from tvmops.nn.linear import Linear


class Replaced(NamedTuple):
    """One module that was swapped."""

    name: str
    before: str
    after: str


# By torch's class: what takes its place, a subclass of it with the same attributes and parameters.
COUNTERPARTS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Linear: Linear,
    torch.nn.LayerNorm: normalization.LayerNorm,
    torch.nn.RMSNorm: normalization.RMSNorm,
    torch.nn.GroupNorm: normalization.GroupNorm,
    torch.nn.ReLU: pointwise.ReLU,
    torch.nn.LeakyReLU: pointwise.LeakyReLU,
    torch.nn.ELU: pointwise.ELU,
    torch.nn.Sigmoid: pointwise.Sigmoid,
    torch.nn.Tanh: pointwise.Tanh,
    torch.nn.GELU: pointwise.GELU,
    torch.nn.SiLU: pointwise.SiLU,
    torch.nn.Mish: pointwise.Mish,
    torch.nn.Softplus: pointwise.Softplus,
    torch.nn.Hardswish: pointwise.Hardswish,
    torch.nn.Softmax: softmax.Softmax,
    torch.nn.LogSoftmax: softmax.LogSoftmax,
    torch.nn.CrossEntropyLoss: softmax.CrossEntropyLoss,
}


def counterpart(module: torch.nn.Module) -> torch.nn.Module:
    """The same module as tvmops has it: parameters, buffers and hooks are shared (not copied), the mode is kept.

    Raises:
        TypeError: there is none for a module of this type.
    """
    if type(module) not in COUNTERPARTS:
        raise TypeError(f"tvmops.nn has nothing in place of {type(module).__name__}")
    cls = COUNTERPARTS[type(module)]
    new = cls.__new__(cls)
    state: dict[str, Any] = dict(module.__dict__)
    for name, value in state.items():  # the containers are the new module's own, what they hold is shared
        state[name] = value.copy() if isinstance(value, dict) else value
    new.__dict__.update(state)
    return new


def replace(model: torch.nn.Module) -> list[Replaced]:
    """Swaps the modules within ``model`` that tvmops has a counterpart of, in place: linear layers, activations,
    normalisation, softmax.

    Parameters are shared, so ``state_dict``, optimizers and tied weights keep working; hooks stay. A subclass of one of
    torch's modules is left alone, as it may compute something else. A module that the model holds in several places is
    swapped for one and the same.

    Args:
        model: any module; one that would itself be swapped can't be in place, use :func:`tvmops.nn.counterpart`.

    Returns:
        What was swapped: the qualified name, the old and the new module's description.

    Raises:
        TypeError: ``model`` is not a module, or itself one to be swapped.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"replace takes a torch.nn.Module, not {type(model).__name__}")
    if type(model) in COUNTERPARTS:
        raise TypeError(
            f"a torch.nn.{type(model).__name__} can't be swapped in place: use tvmops.nn.counterpart(module)"
        )
    swapped: list[Replaced] = []
    new_for_old: dict[int, torch.nn.Module] = {}
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):
            if child is None or type(child) not in COUNTERPARTS:
                continue
            if id(child) not in new_for_old:
                new_for_old[id(child)] = counterpart(child)
                qualified = f"{parent_name}.{name}" if parent_name else name
                swapped.append(Replaced(qualified, repr(child), repr(new_for_old[id(child)])))
            parent._modules[name] = new_for_old[id(child)]
    return swapped
