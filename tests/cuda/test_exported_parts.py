"""Operators of several steps on a GPU: their exported kernels in the emulator, with what ATen does between them."""

from __future__ import annotations

from pathlib import Path

from codegen.export import device
from codegen.measure import emulator
from tests.support import python

from .test_exported import HEAD, of_space

CODE = f"""{HEAD}
F = torch.nn.functional

def near(value, exact, unit):
    assert value.shape == exact.shape
    scale = exact.abs().amax() if exact.numel() else 1
    assert ((value.double() - exact).abs() <= unit * (exact.abs() + scale)).all()

def cross_entropy(shape, reduction, weighted, smoothing, ignored=-100):
    n = shape[-1]
    x, target = torch.randn(shape).half(), torch.randint(n, shape[:-1])
    if len(shape) > 1:
        target[::3] = ignored
    weight = torch.rand(n).half() if weighted else None
    options = (("none", "mean", "sum").index(reduction), ignored, smoothing)
    wide = x.double().requires_grad_()
    exact = F.cross_entropy(
        wide, target, weight.double() if weighted else None, ignore_index=ignored, reduction=reduction,
        label_smoothing=smoothing,
    )
    g = torch.randn(exact.shape).half()
    exact.backward(g.double())
    near(served("cross_entropy", x, target, weight, *options), exact.detach(), 2.0**-10)
    loss, stats, total = served("cross_entropy_forward", x, target, weight, *options)
    near(loss, exact.detach(), 2.0**-10)
    dx = served("cross_entropy_backward", g, x, target, weight, stats, total, *options)
    near(dx, wide.grad, 2.0**-10)
    assert (dx[target == ignored] == 0).all()

cross_entropy((13, 40), "mean", False, 0.0)
cross_entropy((13, 37), "sum", False, 0.1, ignored=5)
cross_entropy((13, 40), "none", True, 0.0)
cross_entropy((13, 40), "mean", True, 0.0)
cross_entropy((40,), "mean", False, 0.1)

def star_relu(x):
    scale, shift = torch.tensor(0.9), torch.tensor([-0.4])[0]
    leaves = [t.detach().double().requires_grad_() for t in (x, scale, shift)]
    exact = leaves[1] * F.relu(leaves[0]).square() + leaves[2]
    g = torch.randn(x.shape)
    exact.backward(g.double())
    near(served("star_relu", x, scale, shift), exact.detach(), 2.0**-21)
    for found, leaf in zip(served("star_relu_backward", g, x, scale, shift), leaves):
        near(found, leaf.grad, 2.0**-19)

star_relu(torch.randn(3, 37))
star_relu(torch.randn(2, 5000))
star_relu(torch.randn(6, 40)[:, :24])

def group_norm(shape, groups, weighted):
    x, g, c = torch.randn(shape) + 3, torch.randn(shape), shape[1]
    weight, bias = (torch.randn(c), torch.randn(c)) if weighted else (None, None)
    leaves = [t.double().requires_grad_() for t in (x, weight, bias) if t is not None]
    exact = F.group_norm(leaves[0], groups, *leaves[1:], eps=1e-3)
    exact.backward(g.double())
    near(served("group_norm", x, groups, weight, bias, 1e-3), exact.detach(), 2.0**-20)
    y, mean, rstd = served("group_norm_forward", x, groups, weight, bias, 1e-3)
    near(y, exact.detach(), 2.0**-20)
    found = served("group_norm_backward", g, x, mean, rstd, groups, weight, bias, 1e-3)
    for value, leaf in zip(found, leaves):
        near(value, leaf.grad, 2.0**-19)
    assert weighted or [t.numel() for t in found[1:]] == [0, 0]

group_norm((2, 6, 5, 7), 3, True)
group_norm((3, 4, 8, 8), 2, False)
"""
KEYS = (
    "cross_entropy(float16;M=*,N=*)",
    "cross_entropy_backward(float16;M=*,N=*)",
    "star_relu(float32;N=*)",
    "star_relu_backward(float32;M=*,N=*)",
    "group_norm_moments(float32;M=*,N=*)",
    "group_norm(float32;M=*,N=*)",
    "group_norm_sums(float32;M=*,N=*)",
    "group_norm_backward(float32;M=*,N=*)",
)


def test_operators_of_several_steps(tmp_path: Path) -> None:
    kernels = [of_space(key) for key in KEYS]
    device.export(kernels, device.sources(kernels), tmp_path / "export")
    path = emulator.link_pack(tmp_path / "export", tmp_path / "cuda.so", "sm_86")
    names = python(CODE, str(path)).stdout.split()
    assert {name.partition("@")[0] for name in names} == set(KEYS) - {"group_norm_moments(float32;M=*,N=*)",
        "group_norm_sums(float32;M=*,N=*)"}  # fmt: skip
