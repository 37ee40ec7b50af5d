"""PyTorch operators served by kernels tuned ahead of time.

``tvmops.matmul`` and its kin mirror ``torch``; :mod:`tvmops.nn` has drop-in modules. Where no kernel applies or wins,
ATen runs: same results, same gradients, same errors.
"""

from pathlib import Path as _Path

import torch as _torch  # noqa: F401  the extension links against it

from tvmops import _C

__version__ = "0.1.0"

_default_pack = _Path(__file__).parent / "packs" / "default.so"
if _default_pack.exists():
    _C.load_pack(str(_default_pack))
_C.load_pack_path()

from tvmops import _vmap, nn  # noqa: E402, F401
from tvmops._calibrate import load_calibration as _load_calibration  # noqa: E402
from tvmops._functional import addmm, bmm, linear, matmul, mm, mv  # noqa: E402
from tvmops._inspect import Decision, Decisions, explain, kernels, load_pack, show_config  # noqa: E402
from tvmops._modes import current_mode, mode, set_mode  # noqa: E402

_load_calibration()

__all__ = [
    "Decision",
    "Decisions",
    "addmm",
    "bmm",
    "current_mode",
    "explain",
    "kernels",
    "linear",
    "load_pack",
    "matmul",
    "mm",
    "mode",
    "mv",
    "nn",
    "set_mode",
    "show_config",
]
