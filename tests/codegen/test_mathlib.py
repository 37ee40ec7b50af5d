from __future__ import annotations

import ctypes
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tvm import tirx

import tvmops
from codegen import activations
from codegen.errors import CodegenError
from codegen.export import objects, symbols
from codegen.leaves.epilogue import HAS_BIAS, HAS_RESIDUAL, epilogue
from codegen.spaces.space import Leaf
from codegen.target import TARGETS, find

EXACT = {
    "none": lambda x: x,
    "relu": torch.relu,
    "gelu": lambda x: 0.5 * x * torch.special.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * torch.sigmoid(x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
# In units in the last place where the result is a normal number.
ULPS = {"none": 0.0, "relu": 0.0, "gelu_tanh": 2.0, "silu": 2.0, "sigmoid": 2.0, "tanh": 2.0}
# Next to max(1, |x|).
ABSOLUTE = {"gelu": 2e-7}


class Epilogues:
    """The epilogue leaves of a target, callable."""

    def __init__(self, target: str, directory: Path) -> None:
        self.target, self.n = find(target), find(target).lanes()
        leaves = [
            Leaf(name, f"epilogue_{name}", lambda name=name, f=f: epilogue(f"epilogue_{name}", self.n, f))
            for name, f in activations.ACTIVATIONS.items()
        ]
        self.object = objects.compile_leaves(leaves, self.target, directory)
        library = directory / "epilogues.so"
        subprocess.run(["gcc", "-shared", "-o", library, self.object], check=True)
        self._library = ctypes.CDLL(str(library))

    def __call__(self, name, c, bias=None, residual=None, w=None, alpha=1.0, beta=0.0):
        result = np.ascontiguousarray(c, "float32").copy()
        rows, ld = result.shape
        pointers = [ctypes.c_void_p(a if a is None else a.ctypes.data) for a in (result, bias, residual)]
        flags = HAS_BIAS * (bias is not None) | HAS_RESIDUAL * (residual is not None)
        function = getattr(self._library, f"epilogue_{name}")
        function.restype = None
        sizes = (rows, ld, ld, self.n if w is None else w, flags)
        function(*pointers, *map(ctypes.c_int, sizes), ctypes.c_float(alpha), ctypes.c_float(beta))
        return result


@pytest.fixture(scope="module", params=TARGETS)
def epilogues(request, tmp_path_factory) -> Epilogues:
    if request.param not in tvmops._C.usable_targets():
        pytest.skip(f"this machine does not run {request.param}")
    return Epilogues(request.param, tmp_path_factory.mktemp("epilogues"))


def test_every_activation_is_checked():
    assert EXACT.keys() == activations.ACTIVATIONS.keys() == ULPS.keys() | ABSOLUTE.keys()


@pytest.mark.parametrize("name", EXACT)
def test_close_to_float64_over_the_finite_range(epilogues, name):
    rng = np.random.default_rng(0)
    anywhere = rng.integers(0, 2**32, 1 << 17, dtype=np.uint32).view(np.float32)
    near = (rng.standard_normal(1 << 16) * 5).astype("float32")
    steps = np.linspace(-110, 110, 1 << 16, dtype="float32")
    x = np.concatenate([anywhere[np.isfinite(anywhere)], near, steps])
    x = x[: len(x) // 16 * 16].reshape(-1, epilogues.n)
    exact = EXACT[name](torch.from_numpy(x).double()).numpy()
    result = epilogues(name, x)
    normal = np.abs(exact) >= 2.0**-126
    error = np.abs(result - exact)
    assert error[~normal].max() <= 2.0**-126  # may flush to zero
    if name in ULPS:
        assert (error[normal] / np.spacing(np.abs(exact[normal]).astype("float32"))).max() <= ULPS[name]
    else:
        assert (error / np.maximum(1, np.abs(x))).max() <= ABSOLUTE[name]


@pytest.mark.parametrize("name", EXACT)
def test_special_values(epilogues, name):
    x = np.zeros((1, epilogues.n), "float32")
    x[0, :4] = [np.nan, np.inf, 0, -np.inf]
    result = epilogues(name, x)[0]
    assert np.isnan(result[0])
    above = {"sigmoid": 1.0, "tanh": 1.0}.get(name, np.inf)
    assert result[1] == above
    assert result[2] == (0.5 if name == "sigmoid" else 0.0)
    below = {"none": -np.inf, "relu": 0.0, "sigmoid": 0.0, "tanh": -1.0}
    if name in below:  # of the others, torch's own is NaN
        assert result[3] == below[name]


@pytest.mark.parametrize("full", [True, False])
def test_bias_residual_and_the_factors(epilogues, full):
    rng = np.random.default_rng(1)
    n, w = epilogues.n, epilogues.n if full else epilogues.n - 3
    c, residual = rng.standard_normal((2, 5, n), "float32")
    bias = rng.standard_normal(n, "float32")
    result = epilogues("relu", c, bias, residual, w, alpha=0.5, beta=2.0)
    expected = np.maximum(0.5 * c + bias, 0) + 2 * residual
    np.testing.assert_allclose(result[:, :w], expected[:, :w], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result[:, w:], c[:, w:])


def test_no_function_of_a_math_library_is_called(epilogues):
    assert symbols.undefined(epilogues.object) <= symbols.ALLOWED
    calls = re.findall(r"\bcall\b[^@\n]*@([\w.]+)", epilogues.object.with_suffix(".ll").read_text())
    assert calls
    assert {name for name in calls if not name.startswith("llvm.")} <= symbols.ALLOWED


def test_an_object_that_needs_more_is_refused(tmp_path):
    leaf = Leaf("epilogue.exp", "epilogue_exp", lambda: epilogue("epilogue_exp", 8, tirx.exp))
    with pytest.raises(CodegenError, match=r"needs expf from outside"):
        objects.compile_leaves([leaf], find("x86-64-v3"), tmp_path)
    with pytest.raises(CodegenError, match=r"expf"):
        objects.compile_leaves([leaf], find("x86-64-v3"), tmp_path)  # not taken for done the second time
    text = tmp_path / "text.o"
    text.write_text("no object")
    with pytest.raises(CodegenError, match=r"text\.o is not a 64-bit little-endian ELF object"):
        symbols.undefined(text)
