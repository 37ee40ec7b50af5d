"""Drop-in modules for those of :mod:`torch.nn`."""

from tvmops.nn.linear import Linear
from tvmops.nn.replacing import Replaced, replace

__all__ = ["Linear", "Replaced", "replace"]
