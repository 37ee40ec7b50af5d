"""Pointwise functions in float64, by formulas that do not cancel, and the distance from them in ULP."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[[Tensor], Tensor]

# In the order of ``Pointwise.params``. In float64 too they are what a float32 can hold.
PARAMS: dict[str, tuple[float, ...]] = {
    "leaky_relu": (torch.tensor(0.01).item(),),
    "elu": (1.0,),
    "softplus": (1.0, 20.0),
}

ATEN: dict[str, Function] = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, *PARAMS["leaky_relu"]),
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "squared_relu": lambda x: F.relu(x).square(),
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "erf": torch.erf,
}

# Of float64, where ATen's own cancels; and zero at -inf where that is the limit and ATen has the NaN of -inf * 0.
EXACT: dict[str, Function] = {
    **ATEN,
    "gelu": lambda x: 0.5 * x * torch.special.erfc(x * -math.sqrt(0.5)),
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
}
TAILS = ("gelu", "gelu_tanh", "silu", "mish")


def exact(name: str, x: Tensor) -> Tensor:
    """The function in float64."""
    x = x.double()
    y = EXACT[name](x)
    return torch.where(x.isneginf(), 0.0, y) if name in TAILS else y


def ulps(value: Tensor, reference: Tensor) -> Tensor:
    """|value - reference| in units in the last place of the reference rounded to float32, in float64.

    Below the smallest normal number the unit is that of the smallest normal number. NaN is at distance 0 from NaN and
    infinitely far from all else; infinity is taken for 2**128.
    """
    exponent = (reference.float().view(torch.int32) >> 23).bitwise_and_(0xFF).clamp_(1, 254)
    per_unit = (1023 + 127 + 23 - exponent.long() << 52).view(torch.float64)  # 1 / 2**(exponent - 127 - 23)
    distance = (value.double() - reference).abs_().mul_(per_unit)
    odd = ~distance.isfinite()
    if odd.any():
        a, b = value[odd].double(), reference[odd]
        far = (a.clamp(-(2.0**128), 2.0**128) - b.clamp(-(2.0**128), 2.0**128)).abs() * per_unit[odd]
        distance[odd] = torch.where(a.isnan() & b.isnan(), 0.0, far.nan_to_num(nan=math.inf))
    return distance


def split(distance: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Distances where the result is normal, infinite or NaN; and where it is subnormal, in smallest normal numbers."""
    subnormal = reference.abs() < torch.finfo().tiny
    return distance[~subnormal], distance[subnormal] * 2.0**-23
