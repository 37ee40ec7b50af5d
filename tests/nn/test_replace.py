"""tvmops.nn.replace: what is swapped, what stays, and that the model goes on as before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import tvmops
from tests.support import observed, randn


class Special(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


def model() -> nn.Module:
    torch.manual_seed(0)
    tied = nn.Linear(8, 8)
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.ModuleDict({"a": tied, "special": Special(8, 8)})["a"],
        nn.Sequential(nn.GELU(), tied, nn.Sequential(nn.Linear(8, 7, bias=False))),
        nn.LayerNorm(7),
    )


def test_every_layer_is_swapped_and_told() -> None:
    net = model()
    before = copy.deepcopy(net)
    swapped = tvmops.nn.replace(net)
    assert sorted(s.name for s in swapped) == ["0", "1", "2.0", "2.2.0", "3"]
    assert all(s.before.startswith(("Linear(in_features=", "GELU(", "LayerNorm(")) and s.after for s in swapped)
    assert not any(type(m) is nn.Linear for m in net.modules())
    assert net[1] is net[2][1]
    with tvmops.mode("force"):
        value, decisions = observed(net, randn(5, 6))
    assert [d.op for d in decisions if d.kernel] == ["linear", "linear", "gelu", "linear", "linear", "layer_norm"]
    torch.testing.assert_close(value, before(randn(5, 6)))
    assert tvmops.nn.replace(net) == []


def test_parameters_are_shared() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    parameters, keys = list(net.parameters()), list(net.state_dict())
    tvmops.nn.replace(net)
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == keys
    old = net[0].weight.clone()
    net(randn(5, 6)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(net[0].weight, old)


def test_subclasses_stay() -> None:
    net = nn.Sequential(Special(4, 4), nn.Linear(4, 4), nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4))
    assert [s.name for s in tvmops.nn.replace(net)] == ["1"]
    assert type(net[0]) is Special


def test_hooks_mode_and_attributes_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 4)).eval()
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    net[0].note = "kept"
    net[0].weight.requires_grad_(False)
    tvmops.nn.replace(net)
    net(randn(2, 4))
    assert seen == [1]
    assert not net[0].training
    assert net[0].note == "kept"
    assert not net[0].weight.requires_grad


def test_the_old_module_is_not_changed() -> None:
    old = nn.Linear(4, 4)
    new = tvmops.nn.Linear.from_torch(old, "relu")
    new.register_forward_hook(lambda *_: None)
    new.extra = nn.ReLU()
    assert not old._forward_hooks
    assert not hasattr(old, "extra")
    assert new.activation == "relu"
    torch.testing.assert_close(new(randn(3, 4)), torch.relu(old(randn(3, 4))))


def test_a_transformer() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = randn(2, 5, 16)
    with torch.no_grad():
        expected = net(x)
        names = [s.name for s in tvmops.nn.replace(net)]
        assert {"layers.0.linear1", "layers.1.linear2"} <= set(names)
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    net.train()
    net(x).sum().backward()


@pytest.mark.parametrize("bad", [nn.Linear(2, 2), "model", None], ids=["Linear", "str", "None"])
def test_what_cannot_be_swapped_in(bad: object) -> None:
    with pytest.raises(TypeError, match="counterpart" if isinstance(bad, nn.Linear) else "takes a torch.nn.Module"):
        tvmops.nn.replace(bad)
