"""The arithmetic of programs and epilogues, written for any target, as statements of a CUDA thread.

An expression is a graph: what it uses twice is written once. Here each of its operations becomes a variable, so that
the text does not grow, and TVM's simplifier, which takes float32 for real numbers, finds nothing to rearrange. Results
are those of the CPU to the last bit: products are never contracted with sums, and a larger and a smaller number are
chosen as TVM does it there, where CUDA's own would drop a NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr

from ..errors import CodegenError

_LLVM = {"llvm.fma": "__fmaf_rn", "llvm.copysign": "copysignf"}
MOST_SLOTS = 1024
_SHORT = {"float32": "f", "float16": "h", "bfloat16": "b", "int32": "i", "int64": "l", "uint16": "s", "uint32": "u"}
_LEAVES = (tirx.Var, tirx.IntImm, tirx.FloatImm, tvm.ir.StringImm)


def function(name: str, *args: Expr, dtype: str = "float32") -> Expr:
    """A call of a function of CUDA."""
    return tirx.call_pure_extern(dtype, name, *args)


@functools.cache
def _llvm_names() -> dict[int, str]:
    """CUDA's functions by the number that TVM has for LLVM's intrinsic."""
    number = tvm.get_global_func("target.llvm_lookup_intrinsic_id")
    return {int(number(llvm)): cuda for llvm, cuda in _LLVM.items()}


class Slots:
    """Registers for variables, as elements of one array a dtype.

    They are not bound variables, which TVM replaces by what they stand for, wherever they are used.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, tirx.Buffer] = {}
        self._used: dict[str, int] = {}
        self._most: dict[str, int] = {}

    def new(self, dtype: str) -> tuple[tirx.Buffer, tirx.IntImm]:
        """One more."""
        if dtype not in self._buffers:
            self._buffers[dtype] = tirx.decl_buffer((MOST_SLOTS,), dtype, _SHORT[dtype], scope="local")
        at = self._used.get(dtype, 0)
        self._used[dtype] = at + 1
        self._most[dtype] = max(self._most.get(dtype, 0), at + 1)
        if at == MOST_SLOTS:
            raise CodegenError(f"a program has more than {MOST_SLOTS} {dtype} variables")
        return self._buffers[dtype], tirx.IntImm("int32", at)

    def has(self, expr: Expr) -> bool:
        """Whether an expression is one of them."""
        return type(expr).__name__ == "TensorLoad" and any(expr.source.same_as(b) for b in self._buffers.values())

    def mark(self) -> dict[str, int]:
        """For :meth:`release`."""
        return dict(self._used)

    def release(self, mark: Mapping[str, int]) -> None:
        """Those since a mark are free again."""
        self._used = dict(mark)

    def buffers(self) -> list[tirx.Buffer]:
        """The arrays."""
        return list(self._buffers.values())

    def fitted(self, body: tirx.Stmt) -> tirx.Stmt:
        """The code, all of it, with arrays as long as it needs."""
        found = [
            (buffer, tirx.decl_buffer((self._most[dtype],), dtype, _SHORT[dtype], scope="local"))
            for dtype, buffer in self._buffers.items()
        ]

        def other(var: tvm.ir.Var) -> tvm.ir.Var:
            return next((short for long, short in found if var.same_as(long)), var)

        return tvm_ffi.structural_map(body, (tvm.ir.Var, other))


class Arithmetic:
    """Collects the statements of a piece of code; :meth:`value` adds those of an expression."""

    def __init__(self, slots: Slots, *, quick: bool = False) -> None:
        """``quick``: a quotient may be wrong in its last two places, as one whose divisor is below 2**126 then is."""
        self.statements: list[tirx.Stmt] = []
        self._slots, self._quick = slots, quick
        self._known: dict[int, tuple[Expr, Expr]] = {}  # by identity: comparing expressions makes one

    def add(self, *statements: tirx.Stmt) -> None:
        """Statements that need no rewriting."""
        self.statements += statements

    def bind(self, value: Expr) -> Expr:
        """A variable with this value; a condition stands for itself."""
        if isinstance(value, _LEAVES) or str(value.ty) == "bool" or self._slots.has(value):
            return value
        buffer, at = self._slots.new(str(value.ty))
        self.statements.append(tirx.BufferStore(buffer, value, [at]))
        return tirx.BufferLoad(buffer, [at])

    def value(self, expr: Expr) -> Expr:
        """The expression's value, from here on."""
        if isinstance(expr, tirx.FloatImm) and str(expr.ty) == "float32":
            return tirx.FloatImm("float32", float(np.float32(expr.value)))
        if isinstance(expr, _LEAVES) or self._slots.has(expr):
            return expr
        if hash(expr) not in self._known:
            self._known[hash(expr)] = expr, self.bind(self._made(expr))
        return self._known[hash(expr)][1]

    def _made(self, expr: Expr) -> Expr:
        """One operation of variables and constants."""
        kind = type(expr).__name__
        if kind == "TensorLoad":  # of a buffer
            return expr
        if kind == "Cast":
            return tirx.Cast(expr.ty, self.value(expr.value))
        if kind == "Select":
            parts = (self.value(part) for part in (expr.condition, expr.true_value, expr.false_value))
            return tirx.Select(*parts)
        if kind == "Not":
            return tirx.Not(self.value(expr.a))
        if kind == "Call":
            return self._call(expr)
        if not hasattr(expr, "a"):
            raise CodegenError(f"{expr} ({kind}) has no form for CUDA")
        a, b = self.value(expr.a), self.value(expr.b)
        if "float" in str(expr.ty):
            special: dict[str, Callable[[], Expr]] = {
                "Mul": lambda: function("__fmul_rn", a, b),
                "Div": lambda: function("__fdividef", a, b) if self._quick else a / b,
                "Max": lambda: tirx.Select(a > b, a, b),
                "Min": lambda: tirx.Select(a < b, a, b),
            }
            if kind in special:
                return special[kind]()
        return type(expr)(a, b)

    def _call(self, expr: Expr) -> Expr:
        if expr.op.name == "tirx.call_llvm_pure_intrin":
            number = int(expr.args[0])
            if number not in _llvm_names():
                raise CodegenError(f"{expr} has no form for CUDA")
            return function(_llvm_names()[number], *(self.value(x) for x in expr.args[1:]))
        return tvm.ir.Call(expr.op, [self.value(x) for x in expr.args], expr.attrs, ret_ty=expr.ty)
