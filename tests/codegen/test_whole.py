"""Whole kernels: in a pack, called alone, and as what serves an operator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tvmops
from codegen import spaces
from codegen.export import pack
from codegen.target import TARGETS, find
from codegen.workload import Workload
from tvmops import _C

SOFTMAX, NORM, MATMUL = "softmax(float32;M=6,N=96)", "layer_norm(float32;M=5,N=80)", "matmul(float32;M=24,N=40,K=33)"

# In a process of its own: a pack stays loaded.
CODE = """
import sys, torch, tvmops
tvmops.load_pack(sys.argv[1])
tvmops.set_mode("force")

def served(call, *inputs):
    (decision,) = tvmops.explain(call, *inputs)
    return decision.kernel.partition("@")[0]

x = torch.randn(6, 96)
assert served(tvmops.softmax, x, 1) == sys.argv[2], served(tvmops.softmax, x, 1)
assert served(tvmops.softmax, x.view(2, 3, 96), -1) == sys.argv[2]
assert served(tvmops.softmax, x[:5], 1) != sys.argv[2]
# Rows apart, memory that is not aligned, the other dimension: other kernels.
for y, dim in ((x, 1), (torch.randn(6, 97)[:, :96], 1), (torch.randn(577)[1:].view(6, 96), 1), (torch.randn(96, 6), 0)):
    torch.testing.assert_close(tvmops.softmax(y, dim), y.softmax(dim), rtol=1e-5, atol=1e-7)

x, weight, bias = torch.randn(5, 80), torch.randn(80), torch.randn(80)
assert served(tvmops.layer_norm, x, (80,), weight, bias) == sys.argv[3]
for eps in (1e-5, 0.5):
    ours = tvmops.layer_norm(x, (80,), weight, bias, eps)
    torch.testing.assert_close(ours, torch.nn.functional.layer_norm(x, (80,), weight, bias, eps), rtol=1e-5, atol=1e-6)
x.requires_grad_()
tvmops.layer_norm(x, (80,), weight, bias).square().sum().backward()
mine, x.grad = x.grad, None
torch.nn.functional.layer_norm(x, (80,), weight, bias).square().sum().backward()
torch.testing.assert_close(mine, x.grad, rtol=1e-4, atol=1e-5)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A pack of the default choices of three workloads."""
    target = find(next(name for name in _C.usable_targets() if name in TARGETS))
    kernels = []
    for workload in map(Workload.parse, (SOFTMAX, NORM, MATMUL)):
        space = spaces.find(workload, target, "derived")
        choice = space.default()
        kernels.append(
            pack.PackKernel(
                workload, target, space.name, space.driver, choice, space.params(choice), space.apply(choice)
            )
        )
    directory = tmp_path_factory.mktemp("whole")
    pack.export(kernels, directory / "export")
    return pack.link(directory / "export", directory / "whole.so")


def test_operators_are_served_by_whole_kernels_of_their_size(library):
    done = subprocess.run([sys.executable, "-c", CODE, library, SOFTMAX, NORM], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_whole_kernel_is_bound_to_tensors(library):
    _C.load_pack(str(library))
    (name,) = [k["name"] for k in _C.kernels(MATMUL)]
    a, b, c = torch.randn(24, 33), torch.randn(33, 40), torch.empty(24, 40)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        _C.BoundKernel(name, [a, b, c])()
        torch.testing.assert_close(c, a @ b)
        c.zero_()


def test_what_a_whole_kernel_is_not_bound_to(library):
    _C.load_pack(str(library))
    (name,) = [k["name"] for k in _C.kernels(MATMUL)]
    a, b, c = torch.randn(24, 33), torch.randn(33, 40), torch.empty(24, 40)
    with pytest.raises(tvmops._C.Error, match="no kernel is called 'nonsense'"):
        _C.BoundKernel("nonsense", [a, b, c])
    with pytest.raises(tvmops._C.Error, match="contiguous CPU tensors alone"):
        _C.BoundKernel(name, [a.t().contiguous().t(), b, c])
    with pytest.raises(tvmops._C.Error, match="aligned to 64 bytes"):
        _C.BoundKernel(name, [torch.empty(24 * 33 + 1)[1:].view(24, 33), b, c])
    with pytest.raises(tvmops._C.Error, match="takes 3 tensors, not 2"):
        _C.BoundKernel(name, [a, b])()
    with pytest.raises(tvmops._C.Error, match=f"kernel '{name[:6]}".replace("(", r"\(")):
        _C.BoundKernel(name, [b, a, c])()
