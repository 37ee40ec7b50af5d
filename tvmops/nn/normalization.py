"""The normalising layers of :mod:`torch.nn` on tvmops kernels, and of a sum with a residual."""

from __future__ import annotations

import torch
from torch import Tensor

from tvmops import _normalization as F


class LayerNorm(torch.nn.LayerNorm):
    """:func:`tvmops.layer_norm` as a module, see :class:`torch.nn.LayerNorm`."""

    def forward(self, input: Tensor) -> Tensor:
        """``[*, *normalized_shape]``."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(torch.nn.RMSNorm):
    """:func:`tvmops.rms_norm` as a module, see :class:`torch.nn.RMSNorm`."""

    def forward(self, x: Tensor) -> Tensor:
        """``[*, *normalized_shape]``."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(torch.nn.GroupNorm):
    """:func:`tvmops.group_norm` as a module, see :class:`torch.nn.GroupNorm`."""

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, *]``."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class AddLayerNorm(torch.nn.LayerNorm):
    """:func:`tvmops.add_layer_norm` as a module: arguments, parameters and ``state_dict`` of a LayerNorm."""

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Both ``[*, *normalized_shape]``; the sum, normalised, and the sum."""
        return F.add_layer_norm(input, residual, self.normalized_shape, self.weight, self.bias, self.eps)


class AddRMSNorm(torch.nn.RMSNorm):
    """:func:`tvmops.add_rms_norm` as a module: arguments, parameters and ``state_dict`` of an RMSNorm."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Both ``[*, *normalized_shape]``; the sum, normalised, and the sum."""
        return F.add_rms_norm(x, residual, self.normalized_shape, self.weight, self.eps)
