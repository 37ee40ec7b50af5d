"""Integer expressions of TIR as C, over a launch's sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import tvm
from tvm import tirx

from ..errors import CodegenError

_INFIX = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Mod": "%"}
_INFIX |= {
    "LShift": "<<",
    "RShift": ">>",
    "EQ": "==",
    "NE": "!=",
    "LT": "<",
    "LE": "<=",
    "GT": ">",
    "GE": ">=",
    "And": "&&",
    "Or": "||",
    "BitwiseAnd": "&",
    "BitwiseOr": "|",
    "BitwiseXor": "^",
}
_FUNCTIONS = {"Min": "smaller", "Max": "larger", "FloorDiv": "floor_div", "FloorMod": "floor_mod"}
_CALLS = {"shift_right": ">>", "shift_left": "<<", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}

# What the expressions call.
HELPERS = """\
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
static inline int64_t floor_mod(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }
"""


def c_text(expr: tvm.ir.Expr | int, name_of: Callable[[tirx.Var], str]) -> str:
    """The expression in C, computed in int64; ``name_of`` gives the C text of a variable.

    Raises:
        CodegenError: it holds something that has no place in the size of a grid, a workspace or a tensor map.
    """
    if isinstance(expr, int | tirx.IntImm):
        return str(int(expr))
    if isinstance(expr, tirx.Var):
        return name_of(expr)
    kind = type(expr).__name__
    if kind == "Cast":
        return c_text(expr.value, name_of)
    if kind in _INFIX:
        return f"({c_text(expr.a, name_of)} {_INFIX[kind]} {c_text(expr.b, name_of)})"
    if kind in _FUNCTIONS:
        return f"{_FUNCTIONS[kind]}({c_text(expr.a, name_of)}, {c_text(expr.b, name_of)})"
    if kind == "Not":
        return f"!{c_text(expr.a, name_of)}"
    if kind == "Select":
        parts = [c_text(part, name_of) for part in (expr.condition, expr.true_value, expr.false_value)]
        return f"({parts[0]} ? {parts[1]} : {parts[2]})"
    if kind == "Call":
        called = expr.op.name.removeprefix("tirx.")
        if called in _CALLS:
            return f"({c_text(expr.args[0], name_of)} {_CALLS[called]} {c_text(expr.args[1], name_of)})"
        if called == "if_then_else":
            parts = [c_text(part, name_of) for part in expr.args]
            return f"({parts[0]} ? {parts[1]} : {parts[2]})"
    raise CodegenError(f"a launcher can't compute {expr} ({kind})")


def value(text: str, scalars: Mapping[str, str], sizes: Sequence[int]) -> int:
    """The number that a C expression of :func:`c_text` is for a launch's sizes, none of which is negative.

    Raises:
        CodegenError: it is a conditional, or needs more than sizes.
    """
    names: dict[str, object] = {
        "smaller": min,
        "larger": max,
        "floor_div": lambda a, b: a // b,
        "floor_mod": lambda a, b: a % b,
        "sizes": list(sizes),
        "__builtins__": {},
    }
    try:
        for name, meaning in scalars.items():
            if not meaning.startswith("params"):
                names[name] = eval(meaning.replace("/", "//"), names)
        python = re.sub(r"&&", " and ", re.sub(r"\|\|", " or ", text.replace("/", "//")))
        return int(eval(python, names))
    except (SyntaxError, NameError, IndexError) as error:
        raise CodegenError(f"can't compute {text}: {error}") from None
