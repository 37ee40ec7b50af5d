"""``torch.nn.Linear`` on tvmops kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.optimizer import register_optimizer_step_post_hook

from tvmops._functional import linear

ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")


def _count_fused_steps(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Fused optimizers, unlike all others, leave the versions of the parameters as they were."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            increment_version([p for p in group["params"] if p.grad is not None and not p.is_inference()])


register_optimizer_step_post_hook(_count_fused_steps)


class Linear(torch.nn.Linear):
    """``activation(x @ weight.T + bias)``, a :class:`torch.nn.Linear` with the same parameters and ``state_dict``.

    The weight is packed into the kernel's layout at the first call without gradients and whenever it has changed since
    (an optimizer step, ``load_state_dict``, a new ``.data``, a move to another dtype or device): one copy of the weight
    in memory beside the original. What torch does not count as a change, such as writing through ``weight.data`` in
    place, goes unnoticed; ``tvmops.linear`` without ``prepack`` always reads the weight itself.

    Args:
        in_features: K, the size of the input's last dimension.
        out_features: N, the size of the output's last dimension.
        bias: whether there is a bias ``[N]``.
        device: as in :class:`torch.nn.Linear`.
        dtype: as in :class:`torch.nn.Linear`; float32 is served by kernels, the rest by ATen.
        activation: applied in the same pass: ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"``, ``"silu"``, ``"sigmoid"``,
            ``"tanh"`` or None.

    Raises:
        ValueError: the activation is unknown.
    """

    activation: str | None = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; it can be {', '.join(map(str, ACTIVATIONS))}")
        super().__init__(in_features, out_features, bias, device, dtype)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """``input`` is ``[..., K]``, the result ``[..., N]``; ``residual`` ``[..., N]`` is added last if given."""
        # A weight that is computed anew for each call (parametrizations, functional_call) is not worth packing.
        prepack = isinstance(self.weight, torch.nn.Parameter)
        return linear(input, self.weight, self.bias, self.activation, residual, prepack=prepack)

    @classmethod
    def from_torch(cls, module: torch.nn.Linear, activation: str | None = None) -> Linear:
        """The same layer, sharing the parameters of ``module`` (not copies of them), its hooks and its mode."""
        from tvmops.nn.replacing import counterpart

        new = counterpart(module)
        assert isinstance(new, cls)
        new.activation = activation
        return new

    def extra_repr(self) -> str:
        """As :class:`torch.nn.Linear`, with the activation."""
        return super().extra_repr() + (f", activation={self.activation!r}" if self.activation else "")
