"""How numbers lie in memory: float32 as it is; float16 and bfloat16 as storage, computed with in float32."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr

from ..mathlib import is_nan

DTYPES = ("float32", "bfloat16", "float16")


def memory(dtype: str) -> str:
    """The TIR dtype of a buffer. TVM knows no vectors of bfloat16: its bits are uint16."""
    return "uint16" if dtype == "bfloat16" else dtype


def load(dtype: str, element: Expr) -> Expr:
    """An element as float32 (an integer as it is)."""
    if dtype == "bfloat16":
        return tirx.reinterpret("float32", tirx.shift_left(element.astype("uint32"), tirx.const(16, "uint32")))
    return element.astype("float32") if dtype == "float16" else element


def store(dtype: str, value: Expr) -> Expr:
    """A float32 (or an integer) as an element, rounded to nearest even."""
    if dtype == "bfloat16":
        bits = tirx.reinterpret("uint32", value)
        sixteen = tirx.const(16, "uint32")
        odd = tirx.bitwise_and(tirx.shift_right(bits, sixteen), tirx.const(1, "uint32"))
        rounded = tirx.shift_right(bits + tirx.const(0x7FFF, "uint32") + odd, sixteen)
        return tirx.Select(is_nan(value), tirx.const(0x7FC0, "uint32"), rounded).astype("uint16")
    return value.astype(dtype)


def size(dtype: str) -> int:
    """Bytes of an element."""
    return {"float32": 4, "bfloat16": 2, "float16": 2, "int32": 4, "int64": 8}[dtype]
