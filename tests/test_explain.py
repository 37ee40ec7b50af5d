"""What tvmops tells of itself: explain, kernels, show_config."""

from __future__ import annotations

import threading

import pytest
import torch

import tvmops
from tests.support import randn


def test_every_call_in_order() -> None:
    layer = tvmops.nn.Linear(50, 60)

    def work(x: torch.Tensor) -> torch.Tensor:
        y = layer(x)
        with tvmops.mode("off"):
            y = tvmops.mm(y, y.t())
        return tvmops.matmul(y, x) + x.relu()

    with tvmops.mode("force"):
        decisions = tvmops.explain(work, randn(8, 50))
    assert [d.op for d in decisions] == ["linear", "mm", "mm"]
    assert [d.shape for d in decisions] == ["(8,50) @ (60,50)", "(8,60) @ (60,8)", "(8,8) @ (8,50)"]
    names = {k["name"] for k in tvmops.kernels() if k["usable"]}
    assert decisions[0].kernel in names
    assert decisions[1].kernel is None
    assert decisions[1].reason == "mode is off"
    assert all(d.route and d.reason for d in decisions)


def test_the_table() -> None:
    with tvmops.mode("off"):
        lines = str(tvmops.explain(tvmops.mm, randn(3, 4), randn(4, 5))).splitlines()
    assert lines[0].split() == ["operator", "shape", "served", "by", "route", "why"]
    assert lines[1].split()[:5] == ["mm", "(3,4)", "@", "(4,5)", "ATen"]
    assert len(lines) == 2


@pytest.mark.parametrize(
    "operands",
    [
        (randn(3, 4).double(), randn(4, 5).double()),
        (randn(3, 4).int(), randn(4, 5).int()),
        (randn(0, 4), randn(4, 5)),
        (randn(3, 4).to_sparse(), randn(4, 5)),
    ],
    ids=["float64", "int32", "empty", "sparse"],
)
def test_fallbacks_have_a_reason(operands: tuple[torch.Tensor, ...]) -> None:
    with tvmops.mode("force"):
        for op in (tvmops.mm, tvmops.matmul):
            (decision,) = tvmops.explain(op, *operands)
            assert decision.kernel is None
            assert decision.route == "aten"
            assert decision.reason


def test_a_fallback_of_every_operator_is_told() -> None:
    x, y, v = randn(3, 4).double(), randn(4, 5).double(), randn(4).double()
    calls = {
        "mm": lambda: tvmops.mm(x, y),
        "bmm": lambda: tvmops.bmm(x[None], y[None]),
        "mv": lambda: tvmops.mv(x, v),
        "addmm": lambda: tvmops.addmm(y[0], x, y),
        "linear": lambda: tvmops.linear(x, x),
    }
    for name, call in calls.items():
        assert [(d.op, d.kernel) for d in tvmops.explain(call)] == [(name, None)]


def test_gradients_are_explained() -> None:
    a, b = randn(20, 30).requires_grad_(), randn(30, 40).requires_grad_()
    with tvmops.mode("force"):
        decisions = tvmops.explain(lambda: tvmops.mm(a, b))
        assert len(decisions) == 1
        decisions = tvmops.explain(lambda: torch.autograd.grad(tvmops.mm(a, b).sum(), (a, b)))
    assert [d.shape for d in decisions] == ["(20,30) @ (30,40)", "(20,40) @ (40,30)", "(30,20) @ (20,40)"]


def test_an_error_passes_and_recording_ends() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        tvmops.explain(tvmops.mm, randn(3, 4), randn(3, 4))
    tvmops.mm(randn(3, 4), randn(4, 3))
    assert tvmops.explain(lambda: None) == []
    assert str(tvmops.explain(lambda: None)).count("\n") == 0


def test_other_threads_are_not_seen() -> None:
    def work() -> None:
        thread = threading.Thread(target=lambda: tvmops.mm(randn(3, 4), randn(4, 3)))
        thread.start()
        thread.join()

    assert tvmops.explain(work) == []


def test_kernels_are_listed() -> None:
    kernels = tvmops.kernels()
    assert any(k["op"] == "matmul" and k["usable"] for k in kernels)
    for k in kernels:
        if k["gpu"]:
            continue
        assert k["name"] == f"{k['workload']}@{k['target']}"
        assert k["target"] in tvmops._C.known_targets()
        assert k["driver"] in ("gemm", "reduce", "rotary", "rows", "scan", "whole")
        assert k["params"]
        assert k["pack"].endswith(".so")
        assert not k["usable"] or k["target"] in tvmops._C.usable_targets()


def test_the_configuration_as_text() -> None:
    text = tvmops.show_config()
    for part in (tvmops.__version__, torch.__version__, "mode: auto", "default.so", *tvmops._C.usable_targets()):
        assert part in text
