"""Kernels as codegen exports them, called as operators: CUDA sources in the emulator, launchers included."""

from __future__ import annotations

from pathlib import Path

import pytest

from codegen import ops, spaces
from codegen.export import device
from codegen.export.pack import PackKernel
from codegen.measure import emulator
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda import hopper_gemms
from tests.codegen.cuda.gemm_judge import SMALL, SMALL_TF32
from tests.support import python

HEAD = """
import sys, torch, tvmops
tvmops.load_pack(sys.argv[1])
keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
torch.manual_seed(0)

def served(op, *args):
    result = []
    with tvmops.mode("force"):
        call = lambda: result.append(getattr(torch.ops.tvmops, op).default.redispatch(keys, *args))
        (decision,) = tvmops.explain(call)
    assert decision.kernel, decision
    print(decision.kernel)
    return result[0]

def close(value, exact, unit):
    assert ((value.double() - exact).abs() <= 1.1 * unit * exact.abs() + 2.0**-15).all()

def linear(m, n, k):
    x, w, b, r = (torch.randn(*s).half() for s in ((m, k), (n, k), (n,), (m, n)))
    exact = torch.nn.functional.gelu(x.double() @ w.double().t() + b.double()) + r.double()
    close(served("linear", x, w, b, "gelu", r), exact, 2.0**-11)
    assert torch.equal(served("linear", x, w, b, "gelu", r), served("linear", x, w, b, "gelu", r))

"""
CODE = f"""{HEAD}
linear(70, 72, 104)
linear(5, 72, 264)
a, b = torch.randn(2, 70, 40).half(), torch.randn(2, 24, 40).half().transpose(1, 2)
close(served("bmm", a, b), a.double() @ b.double(), 2.0**-11)
x, w = torch.randn(37, 92), torch.randn(76, 92)
torch.backends.cuda.matmul.allow_tf32 = True
error = (served("linear", x, w).double() - x.double() @ w.double().t()).abs()
assert (error <= 2.0**-10 * (x.abs() @ w.abs().t())).all() and error.max() > 1e-4
torch.backends.cuda.matmul.allow_tf32 = False
with tvmops.mode("force"):
    (refused,) = tvmops.explain(torch.ops.tvmops.linear.default.redispatch, keys, x, w)
assert refused.kernel is None and "TF32" in refused.reason
x = torch.randn(7, 133).half()
close(served("softmax", x, -1), x.double().softmax(-1), 2.0**-11)
x = torch.randn(3, 37)
close(served("gelu", x), torch.nn.functional.gelu(x.double()), 2.0**-22)
close(served("gelu_", x.clone()), torch.nn.functional.gelu(x.double()), 2.0**-22)
gate, up = torch.randn(5, 24).half(), torch.randn(5, 24).half()
for name in ("gelu", "silu"):
    exact = getattr(torch.nn.functional, name)(gate.double()) * up.double()
    close(served("gated_activation", gate, up, name), exact, 2.0**-11)
x, angle = torch.randn(2, 7, 9, 40).half()[:, :, 3:6], torch.randn(7, 16)
part, c, s = x.double()[..., :32], angle.cos().double()[:, None], angle.sin().double()[:, None]
for pairs in (False, True):
    one, other = (part[..., ::2], part[..., 1::2]) if pairs else part.chunk(2, -1)
    both = (one * c - other * s, other * c + one * s)
    y = served("rotary_embedding", x, angle.cos(), angle.sin(), pairs, 1, False)
    assert torch.equal(y[..., 32:], x[..., 32:])
    exact = torch.stack(both, -1).flatten(-2) if pairs else torch.cat(both, -1)
    assert ((y[..., :32].double() - exact).abs() <= 2.0**-11 * exact.abs() + 2.0**-20).all()
for shape, dim in (((3, 70), 1), ((2, 9, 5), 1), ((20000,), 0)):
    x = torch.randn(shape)
    assert (served("cumsum", x, dim, None, False, False) - x.double().cumsum(dim)).abs().max() < 1e-3
x = (1 + torch.randn(3, 40) / 8).double().requires_grad_()
x.detach()[1, 7] = 0
y, g = x.cumprod(1), torch.randn(3, 40)
(dx,) = torch.autograd.grad(y, x, g.double())
x, y = x.detach().float(), y.detach().float()
assert (served("cumprod_backward", g, x, y, 1, False, False) - dx).abs().max() < 1e-4 * dx.abs().max()
"""
HOPPER = {**hopper_gemms.SMALL, "consumers": 2}
HOPPER_CODE = f"""{HEAD}
linear(200, 136, 264)
linear(5, 8, 8)
x, y, z = torch.randn(72, 40).half(), torch.randn(40, 72).half(), torch.randn(40, 24).half()
close(served("mm", x, z), x.double() @ z.double(), 2.0**-11)
close(served("mm", y.t(), z), y.t().double() @ z.double(), 2.0**-11)
a, b = torch.randn(2, 70, 40).half(), torch.randn(2, 24, 40).half().transpose(1, 2)
close(served("bmm", a, b), a.double() @ b.double(), 2.0**-11)
"""


def of_space(key: str, choice: dict[str, int] | None = None, arch: str = "sm_80", name: str = "mma_sync") -> PackKernel:
    """A kernel of the workload."""
    workload, target = Workload.parse(key), find_gpu(arch)
    space = spaces.find(workload, target, name if choice else None)
    choice = choice or space.default()
    return PackKernel(
        workload, target, space.name, space.driver, choice, space.params(choice), list(space.apply(choice))
    )


def test_exported_kernels_serve_calls(tmp_path: Path) -> None:
    kernels = [
        of_space("matmul(float16;M=*,N=*,K=*;a=n,b=t)", SMALL),
        of_space("matmul(float16;M=*,N=*,K=*;a=n,b=t,rows=64)", {**SMALL, "split_k": 2}),
        of_space("matmul(float32;M=*,N=*,K=*;a=n,b=t,tf32=1)", SMALL_TF32),
        of_space("softmax(float16;M=*,N=*)"),
        of_space("gelu(float32;N=*)"),
        of_space("gated_activation(float16;N=*)"),
        of_space("rotary_embedding(float16;M=*,H=*,N=*)"),
        of_space("cumsum(float32;M=*,N=*,I=*)"),
        of_space("cumprod_backward(float32;M=*,N=*,I=*)"),
    ]
    device.export(kernels, device.sources(kernels), tmp_path / "export")
    path = emulator.link_pack(tmp_path / "export", tmp_path / "cuda.so", "sm_86")
    names = python(CODE, str(path)).stdout.split()
    few = "matmul(float16;M=*,N=*,K=*;a=n,b=t,rows=64)@sm_80"
    many = "matmul(float16;M=*,N=*,K=*;a=n,b=t)@sm_80"
    rounded = "matmul(float32;M=*,N=*,K=*;a=n,b=t,tf32=1)@sm_80"
    rows = ["softmax(float16;M=*,N=*)@sm_80", *["gelu(float32;N=*)@sm_80"] * 2]
    rows += ["gated_activation(float16;N=*)@sm_80"] * 2 + ["rotary_embedding(float16;M=*,H=*,N=*)@sm_80"] * 2
    rows += ["cumsum(float32;M=*,N=*,I=*)@sm_80"] * 3 + ["cumprod_backward(float32;M=*,N=*,I=*)@sm_80"]
    assert names == [many] * 3 + [few] * 3 + [many, rounded, *rows]


def test_kernels_with_tensor_maps_serve_calls(tmp_path: Path) -> None:
    keys = {layout: f"matmul(float16;M=*,N=*,K=*;a={layout[0]},b={layout[1]})" for layout in ("nn", "nt", "tn")}
    kernels = [of_space(key, HOPPER, "sm_90a", "wgmma") for key in keys.values()]
    device.export(kernels, device.sources(kernels), tmp_path / "export")
    path = emulator.link_pack(tmp_path / "export", tmp_path / "cuda.so", "sm_90a")
    names = python(HOPPER_CODE, str(path)).stdout.split()
    assert names == [f"{keys[layout]}@sm_90a" for layout in ("nt",) * 6 + ("nn", "tn", "nt")]


@pytest.mark.parametrize("op", ["matmul", "softmax", "gelu", "layer_norm", "gated_activation"])
def test_shipped_kernels_are_what_the_extension_binds(op: str) -> None:
    """Names of launches and params that csrc/cuda asks for."""
    target = find_gpu("sm_80")
    for workload in ops.device_workloads(op):
        space = spaces.find(workload, target, "mma_sync" if op == "matmul" else "device_rows")
        params = space.params(space.default())
        wanted = {"align", "layout_a", "layout_b"} if op == "matmul" else {"operands", "flat", "role0", "bytes0"}
        assert wanted <= params.keys()
        assert {kernel.name.split(".")[0] for kernel in space.apply(space.default())} == {"launch"}
