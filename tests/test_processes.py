"""tvmops among threads, forks and other libraries: each in a process of its own."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

import tvmops
from tests.support import ROOT, called, python, randn

HELD = ("tvm", "tvm_ffi", "codegen", "tvmops.codegen", "numpy.f2py", "torch._dynamo", "torch._inductor")


def test_import_brings_only_torch() -> None:
    """Neither TVM nor the code generator, nor the parts of torch that are slow to import."""
    out = python(
        "import sys, torch; before = set(sys.modules); import tvmops;"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('tvmops')));"
        f"print(*(m for m in {HELD!r} if m in sys.modules))"
    ).stdout.splitlines()
    added, held = out[0].split(), out[1].split()
    assert held == []
    assert not [m for m in added if m.split(".")[0] not in {"torch", *sys.stdlib_module_names}], added


def test_import_needs_torch_alone() -> None:
    """With every other installed package out of reach."""
    code = """
import importlib.abc, importlib.metadata, sys
class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in allowed: return None
        raise ModuleNotFoundError(f"kept out of this test: {name}", name=name)
allowed = {"torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx", "filelock", "fsspec",
           "jinja2", "markupsafe", "tvmops"}
sys.meta_path.insert(0, Only())
import torch, tvmops
x = torch.randn(20, 30)
with tvmops.mode("force"):
    decisions = tvmops.explain(tvmops.nn.Linear(30, 40), x)
    assert decisions[0].kernel, decisions
    torch.testing.assert_close(tvmops.mm(x, x.t()), x @ x.t())
print(tvmops.show_config())
"""
    assert "tvmops" in python(code).stdout


BOTH = """
import {first}, {second}
import numpy as np, torch, tvm, tvmops
a, b = torch.randn(100, 120), torch.randn(120, 90)
def with_tvmops():
    with tvmops.mode("force"):
        assert tvmops.explain(tvmops.mm, a, b)[0].kernel
        torch.testing.assert_close(tvmops.mm(a, b), a @ b)
def with_tvm():
    from tvm import te
    x = te.placeholder((64,), "float32"); y = te.compute((64,), lambda i: x[i] * 2 + 1)
    f = tvm.compile(tvm.IRModule({{"main": te.create_prim_func([x, y])}}), "llvm")
    data = np.arange(64, dtype="float32"); p = tvm.runtime.tensor(data); q = tvm.runtime.tensor(np.zeros_like(data))
    f["main"](p, q)
    np.testing.assert_allclose(q.numpy(), data * 2 + 1)
with_tvmops(); with_tvm(); with_tvmops(); with_tvm()
print("both")
"""


@pytest.mark.parametrize(("first", "second"), [("tvm", "tvmops"), ("tvmops", "tvm")])
def test_tvm_in_the_same_process(first: str, second: str) -> None:
    pytest.importorskip("tvm")
    assert "both" in python(BOTH.format(first=first, second=second)).stdout


def test_fork_after_use() -> None:
    """As a worker of torch's DataLoader does: one thread in the child. With more, OpenMP hangs, torch.mm too."""
    code = """
import os, sys, torch, tvmops
torch.set_num_threads(2)
a, b = torch.randn(300, 400), torch.randn(400, 500)
layer = tvmops.nn.Linear(400, 500).requires_grad_(False)
with tvmops.mode("force"):
    expected = tvmops.mm(a, b), layer(a)
    for i in range(3):
        if not (child := os.fork()):
            torch.set_num_threads(1)
            ok = torch.equal(tvmops.mm(a, b), expected[0]) and torch.equal(layer(a), expected[1])
            layer.weight.mul_(2)  # the child's own
            ok = ok and not torch.equal(layer(a), expected[1])
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(tvmops.mm(a, b), expected[0]) and torch.equal(layer(a), expected[1])
"""
    python(code)


def test_workers_of_a_data_loader() -> None:
    code = """
import torch, tvmops
layer = tvmops.nn.Linear(64, 32).requires_grad_(False)
class Data(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return layer(torch.full((64,), float(i)))
with tvmops.mode("force"):
    layer(torch.ones(64, 64))
rows = torch.cat(list(torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2)))
expected = torch.nn.functional.linear(torch.arange(8.)[:, None].expand(8, 64), layer.weight, layer.bias)
torch.testing.assert_close(rows, expected)
"""
    python(code)


def test_several_python_threads_at_once() -> None:
    """They share packed weights, the table of kernels and the thread pool."""
    weights = [randn(120, 200, seed=i) for i in range(4)]
    x, a, b = randn(60, 200, seed=9), randn(90, 300, seed=10), randn(300, 110, seed=11)
    expected = [called("force", tvmops.linear, x, w, None, "gelu", prepack=True) for w in weights]
    product = called("force", tvmops.matmul, a, b)
    failures: list[BaseException] = []
    together = threading.Barrier(6)

    def work(index: int) -> None:
        try:
            together.wait()
            for i in range(40):
                w = weights[(i + index) % 4]
                with tvmops.mode("force"):
                    y = tvmops.linear(x, w, None, "gelu", prepack=True)
                    assert torch.equal(y, expected[(i + index) % 4])
                    assert torch.equal(tvmops.matmul(a, b), product)
                    fresh = randn(60, 200, seed=i)
                    y = tvmops.linear(x, fresh, prepack=True)
                    torch.testing.assert_close(y, x @ fresh.t(), rtol=1e-4, atol=1e-3)
                    if i % 10 == index:
                        tvmops._C.release_packed_weights(index % 2 == 0)
                with tvmops.mode("off"):
                    assert [d.kernel for d in tvmops.explain(tvmops.matmul, a, b)] == [None]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_the_first_calls_come_from_several_threads() -> None:
    code = """
import threading, torch, tvmops
a = torch.randn(64, 64); expected = a @ a; ok = []
start = threading.Barrier(8)
def work():
    start.wait()
    with tvmops.mode("force"):
        y = tvmops.mm(a, a)
    torch.testing.assert_close(y, expected); ok.append(1)
threads = [threading.Thread(target=work) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
assert len(ok) == 8
"""
    python(code)


def test_calls_from_within_a_parallel_region_of_torch() -> None:
    """Backward runs on threads of its own; so do scripted forks."""
    a, b = randn(150, 160).requires_grad_(), randn(160, 170, seed=1).requires_grad_()
    called("force", tvmops.mm, a, b).sum().backward()
    torch.testing.assert_close(a.grad, torch.ones(150, 170) @ b.detach().t(), rtol=1e-4, atol=1e-3)


def test_modules_of_the_product_never_name_the_offline_stage() -> None:
    for path in (ROOT / "tvmops").rglob("*.py"):
        if "codegen" in path.relative_to(ROOT / "tvmops").parts:
            continue
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].split(".")[0] not in ("tvm", "codegen"), f"{path}: {line}"
                assert not words[1].startswith("tvmops.codegen"), f"{path}: {line}"
