"""Operators on fake CUDA tensors, which need no GPU: device, dtype, shape and strides are torch's; autocast, traces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import tvmops

Call = Callable[..., Any]
Make = Callable[[torch.dtype], tuple[Tensor, ...]]


def cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A fake tensor, in a FakeTensorMode."""
    return torch.empty(shape, dtype=dtype, device="cuda")


def of(*shapes: tuple[int, ...]) -> Make:
    return lambda dtype: tuple(cuda(*shape, dtype=dtype) for shape in shapes)


def apart(dtype: torch.dtype) -> tuple[Tensor]:
    """One that is not contiguous."""
    return (cuda(6, 4, 24, dtype=dtype).transpose(0, 1),)


def along(name: str, dim: int) -> tuple[Call, Call, Make]:
    """The functions of this name, along a dimension."""
    ours, torchs = getattr(tvmops, name), getattr(torch, name)
    return lambda x: ours(x, dim), lambda x: torchs(x, dim), apart


CASES: dict[str, tuple[Call, Call, Make]] = {
    "mm": (tvmops.mm, torch.mm, of((8, 24), (24, 16))),
    "mm, transposed": (tvmops.mm, torch.mm, lambda t: (cuda(24, 8, dtype=t).t(), cuda(16, 24, dtype=t).t())),
    "bmm": (tvmops.bmm, torch.bmm, of((3, 8, 24), (3, 24, 16))),
    "mv": (tvmops.mv, torch.mv, of((8, 24), (24,))),
    "addmm": (tvmops.addmm, torch.addmm, of((16,), (8, 24), (24, 16))),
    "matmul": (tvmops.matmul, torch.matmul, of((5, 1, 8, 24), (3, 24, 16))),
    "linear": (tvmops.linear, F.linear, of((2, 8, 24), (16, 24), (16,))),
    "layer_norm": (
        lambda x, w, b: tvmops.layer_norm(x, (24,), w, b),
        lambda x, w, b: F.layer_norm(x, (24,), w, b),
        of((2, 8, 24), (24,), (24,)),
    ),
    "rms_norm": (
        lambda x, w: tvmops.rms_norm(x, (24,), w, 1e-5),
        lambda x, w: F.rms_norm(x, (24,), w, 1e-5),
        of((2, 8, 24), (24,)),
    ),
    "group_norm": (
        lambda x, w, b: tvmops.group_norm(x, 4, w, b),
        lambda x, w, b: F.group_norm(x, 4, w, b),
        of((2, 8, 6, 6), (8,), (8,)),
    ),
    "cross_entropy": (
        lambda x: tvmops.cross_entropy(x, torch.zeros(8, dtype=torch.int64, device="cuda")),
        lambda x: F.cross_entropy(x, torch.zeros(8, dtype=torch.int64, device="cuda")),
        of((8, 24)),
    ),
    "logsumexp": (
        lambda x: tvmops.logsumexp(x, (0, 2), True),
        lambda x: torch.logsumexp(x, (0, 2), True),
        of((6, 4, 24)),
    ),
    # A torch without CUDA has no log_softmax of fake CUDA tensors.
    "log_softmax": (lambda x: tvmops.log_softmax(x, -1), lambda x: torch.softmax(x, -1), of((4, 24))),
    "leaky_relu": (lambda x: tvmops.leaky_relu(x, 0.1), lambda x: F.leaky_relu(x, 0.1), of((4, 24))),
    "gelu, tanh": (lambda x: tvmops.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh"), of((4, 24))),
    **{
        f"{name}, {dim}": along(name, dim)
        for names, dims in (
            (("softmax", "cumsum", "cumprod"), (0, -1)),
            (("sum", "mean", "var", "amax", "amin", "argmax", "argmin"), (0, 2)),
        )
        for name in names
        for dim in dims
    },
    **{
        f.__name__: (getattr(tvmops, f.__name__), f, apart)
        for f in (
            *(torch.exp, torch.expm1, torch.log, torch.log1p, torch.sqrt, torch.rsqrt, torch.erf, torch.relu),
            *(torch.sigmoid, torch.tanh, F.silu, F.mish, F.hardswish, F.softplus, F.elu),
        )
    },
}
HALF = [torch.float16, torch.bfloat16]
# Autograd asks the device, of fake CUDA tensors too; a torch without CUDA ends the process then.
WANTED = (False, True) if torch.cuda.is_available() else (False,)


def about(value: Any) -> list[tuple[Any, ...]]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return [(x.device, x.dtype, tuple(x.shape), x.stride(), x.requires_grad) for x in values]


@pytest.mark.parametrize("case", CASES)
def test_results_are_as_torch_s(case: str) -> None:
    ours, torchs, make = CASES[case]
    for dtype in (torch.float32, *HALF):
        for wanted in WANTED:
            with FakeTensorMode():
                operands = [x.requires_grad_(wanted) for x in make(dtype)]
                value, expected = ours(*operands), torchs(*operands)
                assert about(value) == about(expected), (dtype, wanted)
                assert about(value)[0][0] == torch.device("cuda", 0)
                if wanted and expected.requires_grad:
                    got, exact = (torch.autograd.grad(y.sum(), operands) for y in (value, expected))
                    assert [x[:3] for x in about(got)] == [x[:3] for x in about(exact)], dtype


@contextlib.contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """Of CUDA; ``torch.autocast`` does nothing where there is none."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        torch.clear_autocast_cache()


@pytest.mark.parametrize("case", CASES)
def test_autocast_is_as_torch_s(case: str) -> None:
    """Of CUDA, whose lists are longer than those of the CPU."""
    ours, torchs, make = CASES[case]
    for dtype in (torch.float32, *HALF):
        with FakeTensorMode(), autocast(torch.float16):
            operands = make(dtype)
            assert about(ours(*operands)) == about(torchs(*operands)), dtype


@pytest.mark.parametrize("case", CASES)
def test_a_trace_names_the_operator(case: str) -> None:
    ours, _, make = CASES[case]
    with FakeTensorMode() as mode:
        operands = make(torch.float16)
    for tracing in ("fake", "symbolic"):
        mode.shape_env = torch.fx.experimental.symbolic_shapes.ShapeEnv() if tracing == "symbolic" else None
        with mode:
            graph = make_fx(lambda *args: ours(*args), tracing_mode="fake")(*operands)
        assert any("tvmops" in str(node.target) for node in graph.graph.nodes), graph.code
