"""tvmops.nn.Linear: torch.nn.Linear in all but speed, and its packed weight is never stale."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tvmops
from tests.ops.test_linear import APPLY
from tests.support import ACTIVATIONS, MODES, assert_same, randn, served

IN, OUT = 70, 90


def pair(bias: bool = True, activation: str | None = None) -> tuple[tvmops.nn.Linear, torch.nn.Linear]:
    """Layers of equal parameters."""
    torch.manual_seed(0)
    ours = tvmops.nn.Linear(IN, OUT, bias, activation=activation)
    theirs = torch.nn.Linear(IN, OUT, bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.fixture(autouse=True)
def nothing_packed() -> Iterator[None]:
    tvmops._C.release_packed_weights(True)
    with tvmops.mode("force"):
        yield


def packed() -> int:
    """The bytes of packed weights that are alive."""
    gc.collect()
    return tvmops._C.release_packed_weights(False)


def check(ours: tvmops.nn.Linear, x: Tensor | None = None) -> None:
    """The layer computes what its weight and bias say now."""
    x = randn(40, IN) if x is None else x
    with torch.no_grad():
        value = served(ours, x)
        bias = None if ours.bias is None else ours.bias.double()
        exact = torch.nn.functional.linear(x.double(), ours.weight.double(), bias)
    torch.testing.assert_close(value.double(), APPLY[ours.activation](exact), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_values(bias: bool, activation: str | None, mode: str) -> None:
    ours, theirs = pair(bias, activation)
    with tvmops.mode(mode):
        for shape in [(IN,), (1, IN), (33, IN), (2, 3, IN), (0, IN)]:
            x = randn(*shape)
            expected = APPLY[activation](theirs(x))
            torch.testing.assert_close(ours(x), expected)
            residual = torch.ones_like(expected)
            torch.testing.assert_close(ours(x, residual), expected + 1)
            with torch.no_grad():
                torch.testing.assert_close(ours(x, residual), expected + 1)


def test_it_is_a_linear_with_the_same_start() -> None:
    torch.manual_seed(3)
    ours = tvmops.nn.Linear(5, 6)
    torch.manual_seed(3)
    theirs = torch.nn.Linear(5, 6)
    assert isinstance(ours, torch.nn.Linear)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert repr(ours) == repr(theirs)
    assert repr(tvmops.nn.Linear(5, 6, False, activation="relu")) == (
        "Linear(in_features=5, out_features=6, bias=False, activation='relu')"
    )


def test_arguments() -> None:
    layer = tvmops.nn.Linear(5, 6, device="meta", dtype=torch.float64)
    assert layer.weight.is_meta
    assert layer.weight.dtype == torch.float64
    assert layer(torch.empty(3, 5, device="meta", dtype=torch.float64)).shape == (3, 6)
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        tvmops.nn.Linear(5, 6, activation="swish")


@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_goes_both_ways(bias: bool) -> None:
    ours, theirs = pair(bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    other = torch.nn.Linear(IN, OUT, bias)
    check(ours)
    ours.load_state_dict(other.state_dict())
    check(ours)
    assert torch.equal(ours.weight, other.weight)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.weight, ours.weight)
    assigned = {k: v.clone() * 3 for k, v in other.state_dict().items()}
    ours.load_state_dict(assigned, assign=True)
    check(ours)


# --- The packed weight ---


def test_the_weight_is_packed_once() -> None:
    ours, _ = pair()
    assert packed() == 0
    check(ours)
    held = packed()
    assert OUT * IN * 4 <= held <= 2 * OUT * IN * 4
    for rows in (1, 5, 40, 200):
        check(ours, randn(rows, IN))
    assert packed() == held


def test_a_weight_that_learns_is_not_packed_at_each_step() -> None:
    ours, _ = pair()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    for _ in range(3):
        ours(randn(4, IN)).sum().backward()
        optimizer.step()
        assert packed() == 0
    for _ in range(2):  # unchanged the second time: it may well not be learning
        ours(randn(4, IN))
    assert packed() > 0


def test_the_packed_copy_is_released_with_the_model() -> None:
    ours, _ = pair()
    check(ours)
    assert packed() > 0
    del ours
    assert packed() == 0


def test_a_copy_has_a_packed_weight_of_its_own() -> None:
    ours, _ = pair()
    check(ours)
    once = packed()
    copied = copy.deepcopy(ours)
    check(copied)
    assert packed() == 2 * once
    with torch.no_grad():
        copied.weight.zero_()
    check(copied)
    check(ours)


CHANGES: dict[str, Callable[[tvmops.nn.Linear], Any]] = {
    "in place": lambda layer: layer.weight.mul_(2),
    "a part in place": lambda layer: layer.weight[3:5].fill_(7),
    "through a view": lambda layer: layer.weight.view(-1).add_(1),
    "initialisation": lambda layer: torch.nn.init.orthogonal_(layer.weight),
    "reset": lambda layer: layer.reset_parameters(),
    "data assigned": lambda layer: setattr(layer.weight, "data", randn(OUT, IN, seed=5)),
    "data assigned, transposed": lambda layer: setattr(layer.weight, "data", randn(IN, OUT, seed=5).t()),
    "parameter assigned": lambda layer: setattr(layer, "weight", torch.nn.Parameter(randn(OUT, IN, seed=6))),
    "of another layer": lambda layer: setattr(layer, "weight", torch.nn.Linear(IN, OUT).weight),
    "state dict": lambda layer: layer.load_state_dict(torch.nn.Linear(IN, OUT).state_dict()),
    "moved to float64 and back": lambda layer: layer.double().float(),
    "moved to bfloat16 and back": lambda layer: layer.bfloat16().float(),
    "out=": lambda layer: torch.mul(layer.weight.detach(), -1, out=layer.weight.detach()),
    "detached": lambda layer: layer.weight.detach().mul_(3),
    "copied": lambda layer: layer.weight.copy_(randn(OUT, IN, seed=8)),
    "swapped": lambda layer: torch.utils.swap_tensors(layer.weight, torch.nn.Parameter(randn(OUT, IN, seed=9))),
    "from a vector": lambda layer: torch.nn.utils.vector_to_parameters(randn(OUT * IN + OUT), layer.parameters()),
    "bias alone": lambda layer: layer.bias.add_(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(change: str) -> None:
    ours, _ = pair()
    check(ours)
    before = ours.weight.clone(), ours.bias.clone()
    with torch.no_grad():
        CHANGES[change](ours)
    assert "and back" in change or not (torch.equal(before[0], ours.weight) and torch.equal(before[1], ours.bias))
    check(ours)
    check(ours)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    ],
    ids=["SGD", "SGD foreach", "Adam", "Adam foreach", "AdamW fused"],
)
def test_optimizer_steps_are_noticed(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    ours, _ = pair()
    optimizer = make(ours.parameters())
    for _ in range(3):
        check(ours)  # packs
        optimizer.zero_grad()
        ours(randn(4, IN)).square().sum().backward()
        optimizer.step()
    check(ours)


def test_tied_weights() -> None:
    ours, _ = pair()
    other = tvmops.nn.Linear(IN, OUT)
    other.weight = ours.weight
    check(ours)
    check(other)
    with torch.no_grad():
        other.weight.mul_(2)
    check(ours)
    check(other)


def test_parametrized_weights() -> None:
    """Computed anew for each call: they are not packed, and never stale, compiled or not."""
    ours, _ = pair()
    torch.nn.utils.parametrizations.weight_norm(ours)
    x = randn(8, IN)
    with torch.no_grad():
        expected = x @ ours.weight.t() + ours.bias
        torch.testing.assert_close(ours(x), expected)
        assert packed() == 0
        ours.parametrizations.weight.original0.mul_(2)
        torch.testing.assert_close(ours(x), x @ ours.weight.t() + ours.bias)


def test_functional_call() -> None:
    ours, _ = pair()
    check(ours)
    x = randn(8, IN)
    for scale in (1.0, 2.0, 3.0):
        state = {k: v * scale for k, v in ours.state_dict().items()}
        value = torch.func.functional_call(ours, state, (x,))
        torch.testing.assert_close(value, scale * (x @ ours.weight.t() + ours.bias))
    check(ours)


def test_weights_made_in_inference_mode() -> None:
    """They have no version: never packed, never stale."""
    with torch.inference_mode():
        ours = tvmops.nn.Linear(IN, OUT)
        check(ours)
        ours.weight.mul_(2)
        check(ours)
    assert packed() == 0
    ours, _ = pair()
    with torch.inference_mode():
        check(ours)
        assert packed() > 0
    check(ours)


# --- Moves, copies, files ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    ours, theirs = pair()
    check(ours)
    x = randn(8, IN).to(dtype)
    assert_same(ours.to(dtype)(x), theirs.to(dtype)(x))
    assert ours.weight.dtype == dtype


def test_autocast() -> None:
    ours, theirs = pair()
    x = randn(8, IN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(ours(x), theirs(x))
        assert ours(x).dtype == torch.bfloat16
    check(ours)


@pytest.mark.parametrize("used", [False, True])
def test_copies_and_files(used: bool) -> None:
    ours, _ = pair(activation="gelu")
    if used:
        check(ours)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (copy.deepcopy(ours), copy.copy(ours), torch.load(file, weights_only=False)):
        assert type(other) is tvmops.nn.Linear
        assert other.activation == "gelu"
        assert torch.equal(other.weight, ours.weight)
        check(other)
    assert list(ours.state_dict()) == ["weight", "bias"]


def test_training_as_torch() -> None:
    ours, theirs = pair()
    models = [torch.nn.Sequential(layer, torch.nn.Tanh(), torch.nn.Linear(OUT, 1)) for layer in (ours, theirs)]
    models[1][2].load_state_dict(models[0][2].state_dict())
    losses: list[list[float]] = [[], []]
    for model, history in zip(models, losses, strict=True):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(30):
            x = randn(32, IN, seed=step)
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
            with torch.no_grad():  # packs, between steps
                model(x)
    assert losses[0][-1] < losses[0][0]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-3, atol=1e-3)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_frozen_weights_train_what_is_before_them() -> None:
    ours, theirs = pair()
    for layer in (ours, theirs):
        layer.requires_grad_(False)
    inputs = [randn(8, IN).requires_grad_() for _ in range(2)]
    for layer, x in zip((ours, theirs), inputs, strict=True):
        for _ in range(2):
            layer(x).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-3)


def test_hooks() -> None:
    ours, _ = pair()
    seen: list[str] = []
    ours.register_forward_pre_hook(lambda *_: seen.append("before"))
    ours.register_forward_hook(lambda *_: seen.append("after"))
    check(ours)
    assert seen == ["before", "after"]
