"""Reductions under the CUDA key: kernels as codegen exports them, in the emulator, called as operators."""

from __future__ import annotations

from pathlib import Path

from codegen import spaces
from codegen.export import device
from codegen.export.pack import PackKernel
from codegen.measure import emulator
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.support import python

KEYS = ("sum(float32;M=*,N=*)", "sum(float16;M=*,N=*)", "var(float32;M=*,N=*)", "amax(float32;M=*,N=*)")
KEYS += ("argmax(bfloat16;M=*,N=*)",)
CODE = """
import sys, torch, tvmops
tvmops.load_pack(sys.argv[1])
keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
torch.manual_seed(0)

def explained(op, *args, overload="default", **kwargs):
    result = []
    function = getattr(getattr(torch.ops.tvmops, op), overload)
    with tvmops.mode("force"):
        decisions = tvmops.explain(lambda: result.append(function.redispatch(keys, *args, **kwargs)))
    (decision,) = decisions
    return result[0], decision

def served(op, *args, by=None, **kwargs):
    result, decision = explained(op, *args, **kwargs)
    assert (decision.route, decision.op) == ("cuda_reduce", op), decision
    assert decision.kernel.startswith((by or op) + "("), decision
    return result

def left(op, *args, why, **kwargs):
    result, decision = explained(op, *args, **kwargs)
    assert decision.kernel is None and decision.reason.startswith(why), decision
    return result

def close(value, exact, unit=2.0**-20):
    assert value.shape == exact.shape and ((value.double() - exact).abs() <= unit * (1 + exact.abs())).all()

# Along and across, several dimensions, all of them; whole rows and pieces.
x = torch.randn(3, 40, 24)
wide = x.double()
close(served("sum", x, [-1], False), wide.sum(-1))
close(served("sum", x, [1], True), wide.sum(1, True))
close(served("sum", x, [0, 1], False), wide.sum((0, 1)))
close(served("sum", x, None, False), wide.sum(), 2.0**-18)
close(served("mean", x, [1, 2], False, by="sum"), wide.mean((1, 2)))
close(served("mean", x.half(), [1], False, by="sum"), x.half().double().mean(1), 2.0**-11)
close(served("var", x, [1], False, 1), wide.var(1))
close(served("var", x, None, False, 0), wide.var(correction=0))
assert torch.equal(served("amax", x, [2], True), x.amax(2, True))
low = torch.randint(-3, 4, (3, 40, 24)).bfloat16()
for dim in (0, 1, -1, None):
    assert torch.equal(served("argmax", low, dim, False), low.argmax(dim))
long = torch.randn(1, 70001)
close(served("sum", long, [1], False), long.double().sum(1), 2.0**-14)
close(served("var", long, [1], False, 1), long.double().var(1))
# Memory in another order is walked as it lies.
turned = torch.randn(24, 40).t()
close(served("sum", turned, [0], False), turned.double().sum(0))
out = torch.empty(3, 24)
assert served("sum", x, [1], False, overload="out", out=out) is out
close(out, wide.sum(1))
wrong = torch.empty(3, 24, dtype=torch.float64)
left("sum", x, [1], False, overload="out", out=wrong, why="a dtype, device, layout")

# What is left to ATen.
apart = torch.randn(8, 20)[:, :16]
assert torch.equal(left("sum", apart, [1], False, why="operands that are not contiguous"), apart.sum(1))
left("var", x[:, ::2], [1], False, 1, why="operands that are not contiguous")
left("sum", x, [0, 2], False, why="reduced dimensions that are apart")
left("sum", torch.randn(33)[1:], [0], False, why="an operand does not begin at a multiple of 16 bytes")
left("amin", x, [1], False, why="no kernel for this GPU has this operator, dtype and layout")
left("sum", x.double(), [1], False, why="a dtype, device, layout")
assert left("sum", torch.empty(0, 5), [0], False, why="a dtype, device, layout").shape == (5,)
assert left("mean", torch.empty(5, 0), [1], False, why="a dtype, device, layout").isnan().all()
with tvmops.mode("auto"):
    (decision,) = tvmops.explain(lambda: torch.ops.tvmops.sum.default.redispatch(keys, x, [1], False))
    assert decision.reason == "never timed on a GPU", decision

# Gradients: autograd is above the CUDA key; here the kernels of the CPU key are replaced by those of the other.
library = torch.library.Library("tvmops", "IMPL")
count = 0
for op in ("sum", "mean", "var", "amax"):
    def call(*args, op=op):
        global count
        count += 1
        return getattr(torch.ops.tvmops, op).default.redispatch(keys, *args)
    library.impl(op, call, "CPU", allow_override=True)
    for dim in (1, 2):
        leaf, exact = (t.clone().requires_grad_() for t in (x, wide))
        with tvmops.mode("force"):
            y = getattr(tvmops, op)(leaf, dim)
        weight = torch.randn(y.shape)
        (y * weight).sum().backward()
        (getattr(torch, op)(exact, dim) * weight.double()).sum().backward()
        close(leaf.grad, exact.grad)
assert count == 8
"""


def test_exported_reductions_serve_calls(tmp_path: Path) -> None:
    target = find_gpu("sm_80")
    kernels = []
    for workload in map(Workload.parse, KEYS):
        space = spaces.find(workload, target)
        choice = {**space.default(), "threads": 128}
        params, made = space.params(choice), space.apply(choice)
        kernels.append(PackKernel(workload, target, space.name, space.driver, choice, params, list(made)))
    device.export(kernels, device.sources(kernels), tmp_path / "export")
    path = emulator.link_pack(tmp_path / "export", tmp_path / "cuda.so", "sm_86")
    python(CODE, str(path))
