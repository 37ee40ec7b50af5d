"""Softmax and cross entropy as modules. Same arguments as torch's; no parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from tvmops import _cross_entropy, _softmax


class Softmax(torch.nn.Softmax):
    """:func:`tvmops.softmax` as a module, see :class:`torch.nn.Softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        if self.dim is None:  # torch picks one, and warns
            return super().forward(input)
        return _softmax.softmax(input, self.dim)


class LogSoftmax(torch.nn.LogSoftmax):
    """:func:`tvmops.log_softmax` as a module, see :class:`torch.nn.LogSoftmax`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        if self.dim is None:
            return super().forward(input)
        return _softmax.log_softmax(input, self.dim)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """:func:`tvmops.cross_entropy` as a module, see :class:`torch.nn.CrossEntropyLoss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Logits ``[C]``, ``[N, C]`` or ``[N, C, d1, ...]``, and classes ``[]``, ``[N]`` or ``[N, d1, ...]``."""
        return _cross_entropy.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
