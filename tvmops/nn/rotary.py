"""Rotary position embedding as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tvmops._rotary import rotary_embedding


class RotaryEmbedding(torch.nn.Module):
    """:func:`tvmops.rotary_embedding` with its tables: pair i of position p is turned by p * base ** (-2 i / dim).

    The tables are computed once, in float64, and kept in float32 whatever dtype the module is moved to. They are no
    part of the ``state_dict``.

    Args:
        dim: R, how many elements of a row are turned; even.
        base: of the angles.
        interleaved: which elements make a pair, see :func:`tvmops.rotary_embedding`.
        max_position: how many positions the tables have.
        seq_dim: the dimension of the input that has the positions.
        device: of the tables.

    Raises:
        ValueError: ``dim`` is not even and positive.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        interleaved: bool = False,
        max_position: int = 4096,
        seq_dim: int = 1,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if dim <= 0 or dim % 2:
            raise ValueError(f"dim is an even number of elements, not {dim}")
        self.dim, self.base, self.interleaved = dim, base, interleaved
        self.max_position, self.seq_dim = max_position, seq_dim
        for name, table in zip(("cos", "sin"), self._tables(device), strict=True):
            self.register_buffer(name, table, persistent=False)

    def _tables(self, device: torch.device | str | None) -> tuple[Tensor, Tensor]:
        pairs = torch.arange(0, self.dim, 2, dtype=torch.float64, device=device)
        positions = torch.arange(self.max_position, dtype=torch.float64, device=device)
        angles = torch.outer(positions, self.base ** (-pairs / self.dim))
        return angles.cos().float(), angles.sin().float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves to another device, or from none, but to no other dtype: positions need float32."""
        super()._apply(fn, recurse)
        self.cos, self.sin = self._tables(self.cos.device)
        return self

    def forward(self, input: Tensor, offset: int = 0, positions: Tensor | None = None) -> Tensor:
        """Turns ``input``.

        Args:
            input: ``[batch, seq, heads, D]`` for ``seq_dim=1``, D at least ``dim``.
            offset: the position of the first row, as when earlier ones are cached.
            positions: of each row, ``[seq]`` or ``[batch, seq]``, instead of ``offset``.

        Raises:
            ValueError: there are more positions than ``max_position``.
            RuntimeError: as :func:`tvmops.rotary_embedding`.
        """
        if positions is not None:
            cos, sin = self.cos[positions], self.sin[positions]
        else:
            end = offset + input.shape[self.seq_dim]
            if offset < 0 or end > self.max_position:
                raise ValueError(f"positions {offset} to {end} of tables of {self.max_position}; see max_position")
            cos, sin = self.cos[offset:end], self.sin[offset:end]
        return rotary_embedding(input, cos, sin, interleaved=self.interleaved, seq_dim=self.seq_dim)

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"{self.dim}, base={self.base}, interleaved={self.interleaved}, max_position={self.max_position}, "
            f"seq_dim={self.seq_dim}"
        )
