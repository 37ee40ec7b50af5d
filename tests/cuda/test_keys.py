"""Every operator of tvmops has a function under the CUDA key, which says why when ATen serves a call."""

from __future__ import annotations

import pytest
import torch

import tvmops
from tests.support import observed, randn

from .gpu import on_gpu

# Made of others, which have the key: the dispatcher goes on to those.
COMPOSED = {"tvmops::matmul", "tvmops::matmul.out"}
# Without kernels for GPUs: ATen's scans serve, and rotary embeddings as ATen's steps.
OF_ATEN = {"cumprod", "cumprod_backward", "cumsum", "rotary_embedding"}


def test_every_operator_has_the_key() -> None:
    # A schema is there before Python has asked for the operator.
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("tvmops::")]
    names = {f"{s.name}.{s.overload_name}".rstrip(".") for s in schemas}
    assert {"tvmops::linear", "tvmops::star_relu_backward", "tvmops::bmm.out"} <= names
    lacking = {n for n in names if not torch._C._dispatch_has_kernel_for_dispatch_key(n, "CUDA")}
    left = {n for n in lacking - COMPOSED if n.removeprefix("tvmops::").partition(".")[0] not in OF_ATEN}
    assert not left


@pytest.mark.parametrize(("dtype", "why"), [(torch.float64, "a dtype, device"), (torch.float32, "mode is off")])
def test_why_aten_serves_a_loss(dtype: torch.dtype, why: str) -> None:
    x, target = randn(6, 9, dtype=dtype).requires_grad_(), torch.arange(6)
    exact = torch.nn.functional.cross_entropy(x, target)
    exact.backward()
    gradient, x, options = x.grad, x.detach(), (None, 1, -100, 0.0)
    calls = {"cross_entropy": (x, target, *options), "cross_entropy_forward": (x, target, *options)}
    with tvmops.mode("off"):
        _, stats, total = on_gpu("cross_entropy_forward", x, target, *options)
        calls["cross_entropy_backward"] = (torch.ones((), dtype=dtype), x, target, None, stats, total, *options[1:])
        for name, args in calls.items():
            found, (decision,) = observed(on_gpu, name, *args)
            assert (decision.kernel, decision.route) == (None, "aten")
            assert decision.reason.startswith(why)
            first = found[0] if isinstance(found, tuple) else found
            torch.testing.assert_close(first, gradient if name.endswith("backward") else exact.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_why_aten_serves_the_parts(dtype: torch.dtype) -> None:
    x, g = randn(2, 6, 5, dtype=dtype), randn(2, 6, 5, seed=1, dtype=dtype)
    weight, scale = randn(6, seed=2, dtype=dtype), torch.tensor(0.5, dtype=dtype)
    mean, rstd = randn(2, 3, seed=3, dtype=dtype), randn(2, 3, seed=4, dtype=dtype).abs()
    calls = {
        "group_norm": (x, 3, weight, weight, 1e-5),
        "group_norm_forward": (x, 3, weight, weight, 1e-5),
        "group_norm_backward": (g, x, mean, rstd, 3, weight, weight, 1e-5),
        "star_relu": (x, scale, scale),
        "star_relu_backward": (g, x, scale, scale),
    }
    for name, args in calls.items():
        with tvmops.mode("off"):
            found, (decision,) = observed(on_gpu, name, *args)
        assert (decision.kernel, decision.route) == (None, "aten")
        assert decision.reason
        if name == "group_norm":
            torch.testing.assert_close(found, torch.nn.functional.group_norm(x, 3, weight, weight))
        elif name == "star_relu":
            torch.testing.assert_close(found, 0.5 * x.relu().square() + 0.5)
