"""PyTorch operators served by kernels tuned ahead of time.

``tvmops.matmul`` and its kin mirror ``torch``; :mod:`tvmops.nn` has drop-in modules. Where no kernel applies or wins,
ATen runs: same results, same gradients, same errors.
"""

from pathlib import Path as _Path

import torch as _torch  # noqa: F401  the extension links against it

from tvmops import _C

__version__ = "0.1.0"

for _name in ("default.so", "cuda.so"):
    _pack = _Path(__file__).parent / "packs" / _name
    if _pack.exists():
        _C.load_pack(str(_pack))
_C.load_pack_path()

from tvmops import _vmap, nn  # noqa: E402, F401
from tvmops._calibrate import load_calibration as _load_calibration  # noqa: E402
from tvmops._cross_entropy import cross_entropy  # noqa: E402
from tvmops._functional import addmm, bmm, linear, matmul, mm, mv  # noqa: E402
from tvmops._fused import (  # noqa: E402
    add_activation,
    bias_activation,
    gated_activation,
    geglu,
    star_relu,
    swiglu,
)
from tvmops._inspect import Decision, Decisions, explain, kernels, load_pack, show_config  # noqa: E402
from tvmops._modes import current_mode, mode, set_mode  # noqa: E402
from tvmops._normalization import (  # noqa: E402
    add_layer_norm,
    add_rms_norm,
    group_norm,
    layer_norm,
    rms_norm,
)
from tvmops._pointwise import (  # noqa: E402
    elu,
    elu_,
    erf,
    erf_,
    exp,
    exp_,
    expm1,
    expm1_,
    gelu,
    gelu_,
    hardswish,
    hardswish_,
    leaky_relu,
    leaky_relu_,
    log,
    log1p,
    log1p_,
    log_,
    mish,
    mish_,
    relu,
    relu_,
    rsqrt,
    rsqrt_,
    sigmoid,
    sigmoid_,
    silu,
    silu_,
    softplus,
    sqrt,
    sqrt_,
    squared_relu,
    squared_relu_,
    tanh,
    tanh_,
)
from tvmops._reductions import amax, amin, argmax, argmin, mean, sum, var  # noqa: E402
from tvmops._rotary import rotary_embedding  # noqa: E402
from tvmops._scan import cumprod, cumsum  # noqa: E402
from tvmops._softmax import log_softmax, logsumexp, softmax  # noqa: E402

_load_calibration()

__all__ = [
    "Decision",
    "Decisions",
    "add_activation",
    "add_layer_norm",
    "add_rms_norm",
    "addmm",
    "amax",
    "amin",
    "argmax",
    "argmin",
    "bias_activation",
    "bmm",
    "cross_entropy",
    "cumprod",
    "cumsum",
    "current_mode",
    "elu",
    "elu_",
    "erf",
    "erf_",
    "exp",
    "exp_",
    "explain",
    "expm1",
    "expm1_",
    "gated_activation",
    "geglu",
    "gelu",
    "gelu_",
    "group_norm",
    "hardswish",
    "hardswish_",
    "kernels",
    "layer_norm",
    "leaky_relu",
    "leaky_relu_",
    "linear",
    "load_pack",
    "log",
    "log1p",
    "log1p_",
    "log_",
    "log_softmax",
    "logsumexp",
    "matmul",
    "mean",
    "mish",
    "mish_",
    "mm",
    "mode",
    "mv",
    "nn",
    "relu",
    "relu_",
    "rms_norm",
    "rotary_embedding",
    "rsqrt",
    "rsqrt_",
    "set_mode",
    "show_config",
    "sigmoid",
    "sigmoid_",
    "silu",
    "silu_",
    "softmax",
    "softplus",
    "sqrt",
    "sqrt_",
    "squared_relu",
    "squared_relu_",
    "star_relu",
    "sum",
    "swiglu",
    "tanh",
    "tanh_",
    "var",
]
