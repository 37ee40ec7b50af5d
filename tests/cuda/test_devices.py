"""On a machine with a GPU: numbers, streams, devices, graphs, layouts, derivatives, compilation.

TVMOPS_TEST_PACK names a pack of GPU kernels to test, besides those that are loaded anyway. Where no kernel covers a
call, ATen's result is judged: then that of the operator under the CUDA key.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import tvmops
from tests.support import observed, randn

from .gpu import HALF, UNIT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

ACTIVATION = {"gelu": torch.nn.functional.gelu, "relu": torch.relu}


@pytest.fixture(autouse=True)
def _forced() -> Iterator[None]:
    """Kernels wherever they apply."""
    if path := os.environ.get("TVMOPS_TEST_PACK"):
        tvmops.load_pack(path)
    with tvmops.mode("force"):
        yield


def cuda(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    return randn(*shape, seed=seed, dtype=dtype).cuda()


def kernel_for(workload: str) -> bool:
    """Whether a kernel for the workload runs on this device."""
    major, minor = torch.cuda.get_device_capability()
    fits = {f"sm_{major}{m}" for m in range(minor + 1)} | {f"sm_{major}{minor}a"}
    return any(k["workload"] == workload and k["target"] in fits for k in tvmops.kernels() if k["gpu"])


def close(value: Tensor, exact: Tensor, magnitude: Tensor | None = None, depth: int = 1) -> None:
    allowed = 2 * UNIT[value.dtype] * exact.abs() + 2.0**-20
    if magnitude is not None:
        allowed += 2 * (depth + 16) * 2.0**-23 * magnitude
    assert value.is_cuda
    assert ((value.double() - exact).abs() <= allowed).all()


def product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, int]:
    a, b = a.double(), b.double()
    return a @ b, a.abs() @ b.abs(), a.shape[-1]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn"])
@pytest.mark.parametrize("sizes", [(1, 8, 8), (33, 72, 104), (64, 128, 64), (300, 264, 520), (1024, 1024, 1024)])
def test_products(dtype: torch.dtype, layout: str, sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    a = cuda(m, k, dtype=dtype) if layout[0] == "n" else cuda(k, m + -m % 8, dtype=dtype)[:, :m].t()
    b = cuda(k, n, seed=1, dtype=dtype) if layout[1] == "n" else cuda(n, k, seed=1, dtype=dtype).t()
    y, decisions = observed(tvmops.mm, a, b)
    close(y, *product(a, b))
    name = str(dtype).removeprefix("torch.")
    if kernel_for(f"matmul({name};M=*,N=*,K=*;a={layout[0]},b={layout[1]})"):
        assert decisions[0].kernel, str(decisions)
    batch_a, batch_b = a.expand(3, m, k).contiguous(), b.expand(3, k, n).contiguous()
    close(tvmops.bmm(batch_a, batch_b), *product(batch_a, batch_b))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_linear(dtype: torch.dtype, activation: str | None) -> None:
    for m in (1, 33, 300):
        x, w, b = (cuda(*s, seed=i, dtype=dtype) for i, s in enumerate([(2, m, 264), (136, 264), (136,)]))
        exact, magnitude, depth = product(x, w.t())
        exact = exact + b.double()
        exact = ACTIVATION[activation](exact) if activation else exact
        close(tvmops.linear(x, w, b, activation=activation), exact, magnitude + b.double().abs(), depth)


def test_the_same_bits_again() -> None:
    a, b = cuda(33, 4096), cuda(4096, 264, seed=1)
    first = tvmops.mm(a, b)
    assert all(torch.equal(tvmops.mm(a, b), first) for _ in range(10))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (cuda(33, 100), cuda(100, 72)),  # K is no multiple of 8
        lambda: (cuda(33, 105)[:, 1:], cuda(104, 72)),  # misaligned
        lambda: (cuda(66, 208)[::2, ::2], cuda(104, 72)),
        lambda: (cuda(0, 104), cuda(104, 72)),
        lambda: (cuda(33, 0), cuda(0, 72)),
        lambda: (cuda(33, 104, dtype=torch.float64), cuda(104, 72, dtype=torch.float64)),
    ],
    ids=["ragged", "misaligned", "steps", "no rows", "no depth", "float64"],
)
def test_what_no_kernel_covers(make: Callable[[], tuple[Tensor, Tensor]]) -> None:
    a, b = make()
    y, decisions = observed(tvmops.mm, a, b)
    assert not decisions[0].kernel
    assert torch.equal(y, torch.mm(a, b))


def test_float32_is_float32() -> None:
    a, b = cuda(128, 128, dtype=torch.float32), cuda(128, 128, seed=1, dtype=torch.float32)
    exact, magnitude, depth = product(a, b)
    close(tvmops.mm(a, b), exact, magnitude, depth)


ROWS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "softmax": lambda x: (tvmops.softmax(x, -1), x.double().softmax(-1)),
    "log_softmax": lambda x: (tvmops.log_softmax(x, -1), x.double().log_softmax(-1)),
    "gelu": lambda x: (tvmops.gelu(x), torch.nn.functional.gelu(x.double())),
    "silu": lambda x: (tvmops.silu(x), torch.nn.functional.silu(x.double())),
    "layer_norm": lambda x: (
        tvmops.layer_norm(x, x.shape[-1:]),
        torch.nn.functional.layer_norm(x.double(), x.shape[-1:]),
    ),
    "rms_norm": lambda x: (
        tvmops.rms_norm(x, x.shape[-1:], eps=1e-5),
        torch.nn.functional.rms_norm(x.double(), x.shape[-1:], eps=1e-5),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("shape", [(1,), (7, 33), (4, 5, 1000), (3, 20000), (70000, 8)])
@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    value, exact = ROWS[name](cuda(*shape, dtype=dtype))
    assert value.dtype == dtype
    close(value, exact, exact.abs() + 1, 64)


def test_a_stream_of_one_s_own() -> None:
    """Work waits its turn on the stream that is current."""
    a, b = cuda(1024, 1024), cuda(1024, 1024, seed=1)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = a * 2  # after the sleep: who does not wait reads memory that is not written yet
        y = tvmops.softmax(tvmops.mm(late, b), -1)
    stream.synchronize()
    torch.testing.assert_close(y, torch.mm(a * 2, b).softmax(-1), rtol=1e-2, atol=1e-2)


def test_threads_with_streams() -> None:
    wrong: list[int] = []

    def work(i: int) -> None:
        a, b = cuda(128, 128, seed=i), cuda(128, 128, seed=i + 1)
        with tvmops.mode("force"), torch.cuda.stream(torch.cuda.Stream()):
            first = tvmops.mm(a, b)
            if not all(torch.equal(tvmops.mm(a, b), first) for _ in range(50)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    a, b = cuda(64, 128).to("cuda:1"), cuda(128, 64, seed=1).to("cuda:1")
    assert torch.cuda.current_device() == 0
    y = tvmops.mm(a, b)
    assert y.device == a.device
    assert torch.cuda.current_device() == 0
    close(y, *product(a, b))
    with pytest.raises(RuntimeError):
        tvmops.mm(a, b.to("cuda:0"))


def test_a_graph() -> None:
    """Captured after one call, replayed with other numbers: nothing synchronises, and memory is torch's."""
    x, w, b = cuda(40, 264), cuda(136, 264, seed=1), cuda(136, seed=2)

    def work() -> Tensor:
        return tvmops.softmax(tvmops.linear(x, w, b, activation="gelu"), -1)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = work()
    for seed in (3, 4):
        x.copy_(cuda(40, 264, seed=seed))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, work())


def test_gradients() -> None:
    x, w, b = (cuda(*s, seed=i).requires_grad_() for i, s in enumerate([(40, 64), (24, 64), (24,)]))
    got = torch.autograd.grad(tvmops.linear(x, w, b, activation="gelu").square().sum(), (x, w, b))
    wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
    loss = torch.nn.functional.gelu(torch.nn.functional.linear(*wide)).square().sum()
    for value, exact in zip(got, torch.autograd.grad(loss, wide), strict=True):
        torch.testing.assert_close(value.double(), exact, rtol=2e-2, atol=2e-1)


def test_gradcheck() -> None:
    a, b = (cuda(*s, dtype=torch.float64).requires_grad_() for s in ((3, 8), (8, 4)))
    assert torch.autograd.gradcheck(tvmops.mm, (a, b))
    assert torch.autograd.gradcheck(lambda t: tvmops.softmax(t, -1), (a,))
    assert torch.autograd.gradcheck(tvmops.gelu, (a,))


def test_opcheck() -> None:
    ops = torch.ops.tvmops
    x, w = cuda(16, 64), cuda(24, 64, seed=1)
    for op, args in ((ops.linear, (x, w)), (ops.mm, (x, w.t())), (ops.softmax, (x, -1)), (ops.gelu, (x,))):
        torch.library.opcheck(op.default, args)


def test_autocast() -> None:
    x, w = cuda(16, 64, dtype=torch.float32), cuda(24, 64, seed=1, dtype=torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        y = tvmops.linear(x, w)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), torch.nn.functional.linear(x, w), rtol=3e-2, atol=1e-1)


def test_compile() -> None:
    x, w = cuda(16, 64), cuda(24, 64, seed=1)

    def work(x: Tensor) -> Tensor:
        return tvmops.softmax(tvmops.linear(x, w, activation="gelu"), -1)

    try:
        y = torch.compile(work, fullgraph=True)(x)
    except Exception as error:
        if "riton" in str(error) or "compiler" in str(error):
            pytest.skip(f"torch.compile does not work here: {error}")
        raise
    torch.testing.assert_close(y, work(x))


def test_a_module_moves_to_the_gpu() -> None:
    layer = tvmops.nn.Linear(64, 24)
    layer(randn(8, 64))  # packs weights for the CPU
    layer = layer.cuda().half()
    x = cuda(16, 64)
    exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(layer(x).double(), exact, rtol=1e-2, atol=1e-2)
