"""The table of pointwise functions as leaves of their own, called through ctypes without driver or operator."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
from tvm.script import tirx as T

from codegen.activations import POINTWISE, Pointwise
from codegen.export import objects
from codegen.leaves.lower import scripted
from codegen.spaces.space import Leaf
from codegen.target import find


def forward_leaf(name: str, lanes: int, function: Pointwise):
    """``name(X, Y, rows, p, q)``: Y = forward(X, p, q) of [rows, lanes]; p and q are for its params, if any."""

    @T.prim_func(s_tir=True, private=True)
    def func(x: T.handle, y: T.handle, rows: T.int32, p: T.float32, q: T.float32):
        X = T.match_buffer(x, (rows, lanes), "float32")
        Y = T.match_buffer(y, (rows, lanes), "float32")
        with T.sblock("forward"):
            T.reads(X[0:rows, 0:lanes])
            T.writes(Y[0:rows, 0:lanes])
            for i in range(rows):
                for j in T.vectorized(lanes):
                    Y[i, j] = function.forward(X[i, j], *[p, q][: len(function.params)])

    return scripted(name, func)


def backward_leaf(name: str, lanes: int, function: Pointwise):
    """``name(G, S, D, rows, p, q)``: D = backward(G, S, p, q)."""

    @T.prim_func(s_tir=True, private=True)
    def func(g: T.handle, s: T.handle, d: T.handle, rows: T.int32, p: T.float32, q: T.float32):
        G = T.match_buffer(g, (rows, lanes), "float32")
        S = T.match_buffer(s, (rows, lanes), "float32")
        D = T.match_buffer(d, (rows, lanes), "float32")
        with T.sblock("backward"):
            T.reads(G[0:rows, 0:lanes], S[0:rows, 0:lanes])
            T.writes(D[0:rows, 0:lanes])
            for i in range(rows):
                for j in T.vectorized(lanes):
                    D[i, j] = function.backward(G[i, j], S[i, j], *[p, q][: len(function.params)])

    return scripted(name, func)


class PointwiseLeaves:
    """All functions of the table for a target, callable with float32 arrays."""

    def __init__(self, target: str, directory: Path, names: tuple[str, ...] = tuple(POINTWISE)) -> None:
        self.lanes = find(target).lanes()
        makers = {"forward": forward_leaf, "backward": backward_leaf}
        leaves = [
            Leaf(symbol, symbol, lambda m=maker, s=symbol, f=POINTWISE[name]: m(s, self.lanes, f))
            for name in names
            for kind, maker in makers.items()
            for symbol in [f"{kind}_{name}"]
        ]
        self.object = objects.compile_leaves(leaves, find(target), directory)
        library = directory / "pointwise.so"
        subprocess.run(["gcc", "-shared", "-o", library, self.object], check=True)
        self._library = ctypes.CDLL(str(library))

    def _call(self, symbol: str, arrays: tuple[np.ndarray, ...], params: tuple[float, ...]) -> np.ndarray:
        """The leaf on arrays of one size, padded with zeros to whole vectors where need be."""
        size = arrays[0].size
        rest = -size % self.lanes
        inputs = [np.pad(a.ravel(), (0, rest)) if rest else np.ascontiguousarray(a) for a in arrays]
        result = np.empty(size + rest, np.float32)
        assert all(a.dtype == np.float32 and a.size == result.size for a in inputs)
        function = getattr(self._library, symbol)
        function.restype = None
        scalars = (*params, 0.0, 0.0)[:2]
        function(
            *(ctypes.c_void_p(a.ctypes.data) for a in [*inputs, result]),
            ctypes.c_int(result.size // self.lanes),
            *map(ctypes.c_float, scalars),
        )
        return result[:size].reshape(arrays[0].shape)

    def forward(self, name: str, x: np.ndarray, *params: float) -> np.ndarray:
        """y = f(x)."""
        return self._call(f"forward_{name}", (x,), params)

    def backward(self, name: str, g: np.ndarray, saved: np.ndarray, *params: float) -> np.ndarray:
        """G dy/dx from what the function saves."""
        return self._call(f"backward_{name}", (g, saved), params)
