"""TVM's modules, imported when something of them is first used.

Operators and their arithmetic import these: a process that only measures needs an operator's inputs and its name for
them, not TVM, which takes seconds to import and is not there on every machine that measures.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm import s_tir, te, tirx
    from tvm.ir import Expr
else:
    Expr = Any  # for annotations and aliases alone

    class _Later:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self._name), name)

    s_tir, te, tirx = _Later("tvm.s_tir"), _Later("tvm.te"), _Later("tvm.tirx")

__all__ = ["Expr", "s_tir", "te", "tirx"]
