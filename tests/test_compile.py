"""torch.compile, torch.export, torch.func: traced without a graph break, and right after what changes."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tvmops
from tests.support import assert_same, observed, randn

CALLS: dict[str, tuple[Callable[..., Tensor], Callable[[int], tuple[Tensor, ...]]]] = {
    "mm": (tvmops.mm, lambda m: (randn(m, 20), randn(20, 33, seed=1))),
    "bmm": (tvmops.bmm, lambda m: (randn(3, m, 20), randn(3, 20, 33, seed=1))),
    "mv": (tvmops.mv, lambda m: (randn(m, 20), randn(20, seed=1))),
    "addmm": (
        lambda c, a, b: tvmops.addmm(c, a, b, beta=0.5, alpha=2),
        lambda m: (randn(33, seed=2), randn(m, 20), randn(20, 33, seed=1)),
    ),
    "matmul": (tvmops.matmul, lambda m: (randn(2, m, 20), randn(20, 33, seed=1))),
    "matmul, broadcast": (tvmops.matmul, lambda m: (randn(2, 1, m, 20), randn(3, 20, 33, seed=1))),
    "matmul, vector": (tvmops.matmul, lambda m: (randn(m, 5, 20), randn(20, seed=1))),
    "linear": (
        lambda x, w, b, r: tvmops.linear(x, w, b, "gelu", r, prepack=True),
        lambda m: (randn(m, 20), randn(33, 20, seed=1), randn(33, seed=2), randn(m, 33, seed=3)),
    ),
}
cases = pytest.mark.parametrize("case", CALLS)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    with tvmops.mode("force"):
        yield


def around(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """With operators of torch before and after, so that there is something to fuse."""
    return lambda *operands: function(*(x * 2 for x in operands)).relu() + 1


@cases
@pytest.mark.parametrize("wanted", [False, True])
def test_compiled(case: str, wanted: bool) -> None:
    """No graph break, one dynamic graph for all sizes, the same gradients."""
    function, make = CALLS[case]
    eager = around(function)
    compiled = torch.compile(eager, fullgraph=True, dynamic=True, backend="aot_eager")
    for m in (7, 17, 40):
        operands = [x.requires_grad_(wanted) for x in make(m)]
        copies = [x.detach().clone().requires_grad_(wanted) for x in operands]
        value, decisions = observed(compiled, *operands)
        assert any(d.kernel for d in decisions)
        torch.testing.assert_close(value, eager(*copies))
        if wanted:
            value.sum().backward()
            eager(*copies).sum().backward()
            for x, y in zip(operands, copies, strict=True):
                torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)


def test_one_graph_serves_all_sizes() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda a, b: tvmops.matmul(a, b), backend=backend, fullgraph=True, dynamic=True)
    for m in (3, 17, 100):
        compiled(randn(m, 20), randn(20, 30))
    assert len(graphs) == 1
    assert any("tvmops" in str(node.target) for node in graphs[0].graph.nodes)


def test_inductor() -> None:
    """The default backend, static and dynamic, forwards and backwards."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        tvmops.nn.Linear(20, 33, activation="gelu"), torch.nn.LayerNorm(33), tvmops.nn.Linear(33, 8)
    )
    compiled = torch.compile(net, fullgraph=True)
    for m in (5, 9, 12):
        x = randn(m, 20)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), net(x))
        compiled(x).sum().backward()
        got = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        net(x).sum().backward()
        for g, p in zip(got, net.parameters(), strict=True):
            torch.testing.assert_close(g, p.grad, rtol=1e-4, atol=1e-4)
        net.zero_grad()


def test_inductor_reuses_buffers() -> None:
    """Weights that a graph computes live in memory that it uses again: none may be served from an older packed copy."""

    class Normed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [tvmops.nn.Linear(32, 32) for _ in range(4)]
            self.layers = torch.nn.Sequential(*map(torch.nn.utils.parametrizations.weight_norm, layers))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    torch.manual_seed(0)
    net = Normed().requires_grad_(False)
    compiled = torch.compile(net, fullgraph=True)
    with torch.no_grad():
        for seed in range(3):
            torch.testing.assert_close(compiled(randn(8, 32, seed=seed)), net(randn(8, 32, seed=seed)))
        net.layers[2].parametrizations.weight.original0.mul_(2)
        torch.testing.assert_close(compiled(randn(8, 32)), net(randn(8, 32)))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_layer_notices_changes_of_its_weight(backend: str) -> None:
    torch.manual_seed(0)
    layer = tvmops.nn.Linear(20, 33)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x = randn(9, 20)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)

    def check() -> None:
        with torch.no_grad():
            expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
            torch.testing.assert_close(compiled(x), expected)
            torch.testing.assert_close(compiled(x), expected)

    check()
    compiled(x).square().sum().backward()
    optimizer.step()
    check()
    with torch.no_grad():
        layer.weight[3].zero_()
    check()
    layer.load_state_dict(torch.nn.Linear(20, 33).state_dict())
    check()
    layer.weight.data = randn(33, 20, seed=5)
    check()


def test_a_compiled_step_of_training() -> None:
    """The optimizer's update within the graph counts as a change too."""
    torch.manual_seed(0)
    layer = tvmops.nn.Linear(20, 33)
    optimizer = torch.optim.SGD(layer.parameters(), lr=torch.tensor(0.1), momentum=0.9)
    step = torch.compile(optimizer.step, backend="inductor")
    x = randn(9, 20)
    for _ in range(3):
        with torch.no_grad():
            torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
        layer(x).square().sum().backward()
        step()
        optimizer.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_out_is_compiled() -> None:
    def function(a: Tensor, b: Tensor) -> Tensor:
        out = torch.empty(a.size(0), b.size(1))
        tvmops.mm(a, b, out=out)
        return out + 1

    a, b = randn(7, 20), randn(20, 33)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b), a @ b + 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_compiled(dtype: torch.dtype) -> None:
    a, b = randn(7, 20).to(dtype), randn(20, 33).to(dtype)
    compiled = torch.compile(lambda a, b: tvmops.linear(a, b.t(), None, "silu"), fullgraph=True, backend="aot_eager")
    assert_same(compiled(a, b), torch.nn.functional.silu(torch.nn.functional.linear(a, b.t())))


def test_autocast_is_compiled() -> None:
    layer = tvmops.nn.Linear(20, 33)

    def function(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same(compiled(randn(4, 20)), function(randn(4, 20)))


def test_errors_are_raised_while_tracing() -> None:
    from torch._subclasses import FakeTensorMode

    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    for call in (
        lambda: tvmops.mm(randn(3, 4), randn(5, 6)),
        lambda: tvmops.bmm(randn(2, 3, 4), randn(3, 4, 5)),
        lambda: tvmops.mv(randn(3, 4), randn(5)),
        lambda: tvmops.addmm(randn(7), randn(3, 4), randn(4, 6)),
        lambda: tvmops.linear(randn(3, 4), randn(5, 6)),
        lambda: tvmops.linear(randn(3, 4), randn(5, 4), randn(6)),
        lambda: tvmops.mm(randn(3, 4), randn(4, 5).double()),
        lambda: tvmops.matmul(randn(3, 4), randn(5, 6)),
    ):
        with FakeTensorMode(), pytest.raises(RuntimeError):
            call()


@cases
def test_fake_tensors_have_the_strides_of_real_ones(case: str) -> None:
    from torch._subclasses import FakeTensorMode

    function, make = CALLS[case]
    real = make(7)
    with FakeTensorMode() as mode:
        fake = function(*(mode.from_tensor(x) for x in real))
    value = function(*real)
    assert (fake.shape, fake.stride(), fake.dtype, fake.device) == (
        value.shape,
        value.stride(),
        value.dtype,
        value.device,
    )


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = tvmops.nn.Linear(20, 33, activation="gelu")
        self.second = tvmops.nn.Linear(33, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return tvmops.addmm(y[0], y, tvmops.matmul(y.t(), y), alpha=0.1)


@pytest.mark.parametrize("dynamic", [False, True])
def test_export(dynamic: bool) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    shapes = {"x": {0: torch.export.Dim("rows", min=2, max=512)}} if dynamic else None
    exported = torch.export.export(net, (randn(6, 20),), dynamic_shapes=shapes)
    assert any("tvmops" in str(node.target) for node in exported.graph.nodes)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for m in (6, 2, 40) if dynamic else (6,):
        x = randn(m, 20, seed=m)
        value, decisions = observed(loaded, x)
        assert all(d.kernel for d in decisions)
        torch.testing.assert_close(value, net(x))


def test_make_fx() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda a, b: tvmops.matmul(a, b))(randn(2, 3, 4), randn(4, 5))
    assert any("tvmops.mm" in str(node.target) for node in graph.graph.nodes)
    torch.testing.assert_close(graph(randn(2, 3, 4, seed=2), randn(4, 5)), randn(2, 3, 4, seed=2) @ randn(4, 5))


def test_checkpointing_recomputes() -> None:
    layer = tvmops.nn.Linear(20, 20)
    x = randn(5, 20).requires_grad_()
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(5, 20))
