"""Drop-in modules for those of :mod:`torch.nn`."""

from tvmops.nn.fused import GEGLU, SquaredReLU, SwiGLU
from tvmops.nn.linear import Linear
from tvmops.nn.normalization import AddLayerNorm, AddRMSNorm, GroupNorm, LayerNorm, RMSNorm
from tvmops.nn.pointwise import ELU, GELU, Hardswish, LeakyReLU, Mish, ReLU, Sigmoid, SiLU, Softplus, Tanh
from tvmops.nn.replacing import Replaced, counterpart, replace
from tvmops.nn.rotary import RotaryEmbedding
from tvmops.nn.softmax import CrossEntropyLoss, LogSoftmax, Softmax

__all__ = [
    "ELU",
    "GEGLU",
    "GELU",
    "AddLayerNorm",
    "AddRMSNorm",
    "CrossEntropyLoss",
    "GroupNorm",
    "Hardswish",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Mish",
    "RMSNorm",
    "ReLU",
    "Replaced",
    "RotaryEmbedding",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SquaredReLU",
    "SwiGLU",
    "Tanh",
    "counterpart",
    "replace",
]
