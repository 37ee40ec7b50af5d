"""Modules of pointwise functions that torch.nn has no counterpart of."""

from __future__ import annotations

import torch
from torch import Tensor

from tvmops._fused import gated_activation, star_relu
from tvmops._pointwise import squared_relu


class SwiGLU(torch.nn.Module):
    """``silu(gate) * up`` of an input ``[..., 2 N]``, whose last dimension holds gate and up side by side."""

    activation = "silu"

    def forward(self, input: Tensor) -> Tensor:
        """``input`` is ``[..., 2 N]``, the result ``[..., N]``."""
        return gated_activation(input, None, self.activation)


class GEGLU(SwiGLU):
    """``gelu(gate) * up`` of an input ``[..., 2 N]``, whose last dimension holds gate and up side by side.

    Args:
        approximate: as in :class:`torch.nn.GELU`, ``"none"`` or ``"tanh"``.

    Raises:
        ValueError: ``approximate`` is something else.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate is 'none' or 'tanh', not {approximate!r}")
        self.approximate = approximate
        self.activation = "gelu" if approximate == "none" else "gelu_tanh"

    def extra_repr(self) -> str:
        """As :class:`torch.nn.GELU`."""
        return f"approximate={self.approximate!r}"


class SquaredReLU(torch.nn.Module):
    """``relu(x) ** 2``, or ``scale * relu(x) ** 2 + shift`` with parameters of one element.

    The former is from So et al., "Primer: Searching for Efficient Transformers", 2021; the latter is StarReLU of Yu et
    al., "MetaFormer Baselines for Vision", 2022.

    Args:
        learnable: whether there are parameters ``scale`` and ``shift``.
        scale: the first value of the parameter. MetaFormer's own StarReLU starts at 1.
        shift: the first value of the parameter.
        device: of the parameters.
        dtype: of the parameters.
    """

    scale: torch.nn.Parameter | None
    shift: torch.nn.Parameter | None

    def __init__(
        self,
        learnable: bool = False,
        scale: float = 1.0,
        shift: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not learnable and (scale, shift) != (1.0, 0.0):
            raise ValueError("scale and shift are parameters: they need learnable=True")
        for name, value in (("scale", scale), ("shift", shift)):
            made = torch.nn.Parameter(torch.full((1,), value, device=device, dtype=dtype)) if learnable else None
            self.register_parameter(name, made)

    def forward(self, input: Tensor) -> Tensor:
        """``input`` is of any shape, as is the result."""
        if self.scale is None or self.shift is None:
            return squared_relu(input)
        return star_relu(input, self.scale, self.shift)

    def extra_repr(self) -> str:
        """Whether there are parameters."""
        return f"learnable={self.scale is not None}"
