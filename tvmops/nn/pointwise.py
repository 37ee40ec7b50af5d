"""The activations of :mod:`torch.nn` on tvmops kernels. Same arguments, no parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from tvmops import _pointwise as F


class ReLU(torch.nn.ReLU):
    """:func:`tvmops.relu` as a module, see :class:`torch.nn.ReLU`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.relu(input, self.inplace)


class LeakyReLU(torch.nn.LeakyReLU):
    """:func:`tvmops.leaky_relu` as a module, see :class:`torch.nn.LeakyReLU`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)


class ELU(torch.nn.ELU):
    """:func:`tvmops.elu` as a module, see :class:`torch.nn.ELU`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.elu(input, self.alpha, self.inplace)


class Sigmoid(torch.nn.Sigmoid):
    """:func:`tvmops.sigmoid` as a module, see :class:`torch.nn.Sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.sigmoid(input)


class Tanh(torch.nn.Tanh):
    """:func:`tvmops.tanh` as a module, see :class:`torch.nn.Tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.tanh(input)


class GELU(torch.nn.GELU):
    """:func:`tvmops.gelu` as a module, see :class:`torch.nn.GELU`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.gelu(input, self.approximate)


class SiLU(torch.nn.SiLU):
    """:func:`tvmops.silu` as a module, see :class:`torch.nn.SiLU`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.silu(input, self.inplace)


class Mish(torch.nn.Mish):
    """:func:`tvmops.mish` as a module, see :class:`torch.nn.Mish`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.mish(input, self.inplace)


class Softplus(torch.nn.Softplus):
    """:func:`tvmops.softplus` as a module, see :class:`torch.nn.Softplus`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.softplus(input, self.beta, self.threshold)


class Hardswish(torch.nn.Hardswish):
    """:func:`tvmops.hardswish` as a module, see :class:`torch.nn.Hardswish`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.hardswish(input, self.inplace)
