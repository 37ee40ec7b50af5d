"""A workload: an operator with a dtype, dimensions (static or symbolic) and attributes, and its canonical text key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import CodegenError

_KEY = re.compile(r"(?P<op>[a-z_][a-z0-9_]*)\((?P<dtype>[a-z0-9]+);(?P<dims>[^;()]*)(?:;(?P<attrs>[^;()]*))?\)")


@dataclass(frozen=True)
class Workload:
    """What is computed. ``dims`` maps a dimension's name to its size, or to None where it is symbolic."""

    op: str
    dtype: str
    dims: Mapping[str, int | None]
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The canonical text, e.g. ``linear(float32;M=*,N=3072,K=768)``."""
        dims = ",".join(f"{k}={'*' if v is None else v}" for k, v in self.dims.items())
        attrs = ",".join(f"{k}={v}" for k, v in sorted(self.attrs.items()))
        return f"{self.op}({self.dtype};{dims}{';' + attrs if attrs else ''})"

    def __str__(self) -> str:
        return self.key

    def __hash__(self) -> int:
        return hash(self.key)

    @staticmethod
    def parse(key: str) -> Workload:
        """The workload of a key.

        Raises:
            CodegenError: the text is not a key.
        """
        match = _KEY.fullmatch(key)
        if not match:
            raise CodegenError(f"not a workload key: {key!r} (expected e.g. 'linear(float32;M=*,N=3072,K=768)')")
        attrs: dict[str, str] = {}
        for part in match["attrs"].split(",") if match["attrs"] else ():
            name, equals, value = part.partition("=")
            if not (name and equals and value) or name in attrs:
                raise CodegenError(f"not an attribute: {part!r} (expected NAME=VALUE, each name once)")
            attrs[name] = value
        return Workload(match["op"], match["dtype"], parse_dims(match["dims"]), attrs)


def parse_dims(text: str) -> dict[str, int | None]:
    """``M=*,N=3072`` as a mapping.

    Raises:
        CodegenError: a size is neither ``*`` nor a positive integer.
    """
    dims: dict[str, int | None] = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if not name or not (size == "*" or (size.isascii() and size.isdecimal() and int(size) > 0)):
            raise CodegenError(f"not a dimension: {part!r} (expected NAME=SIZE with a positive size, or NAME=*)")
        if name in dims:
            raise CodegenError(f"dimension {name!r} is given twice")
        dims[name] = None if size == "*" else int(size)
    return dims
