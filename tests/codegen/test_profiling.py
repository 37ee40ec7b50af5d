"""What is found in a model: which call is which workload, shares, and what a person gets to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tvmops
from codegen import profiling
from codegen.errors import CodegenError
from codegen.profiling import Entry, Profile
from codegen.profiling.calls import workload_of
from codegen.profiling.child import converted
from codegen.worker import Worker
from codegen.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
TARGET = "x86-64-v3"
X = torch.zeros(3, 7, 20)
W = torch.zeros(24, 20)
GENERAL = "matmul(float32;M=*,N=*,K=*)"


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "key"),
    [
        ("aten.linear", (X, W), {}, "linear(float32;M=*,N=24,K=20)"),
        ("tvmops.linear", (X, W, None, None, None, True), {}, "linear(float32;M=*,N=24,K=20)"),
        ("tvmops.linear", (X, W), {"prepack": True}, "linear(float32;M=*,N=24,K=20)"),
        ("tvmops.linear", (X, W), {}, GENERAL),
        ("aten.addmm", (W[:, 0], X[0], W.t()), {}, "linear(float32;M=*,N=24,K=20)"),
        ("aten.addmm", (W[:, 0], X[0], W.t().contiguous()), {}, GENERAL),
        ("aten.addmm", (torch.zeros(7, 24), X[0], W.t()), {}, GENERAL),
        ("tvmops.addmm", (W[:, 0], X[0], W.t()), {}, GENERAL),
        ("aten.mm", (X[0], W.t()), {}, GENERAL),
        ("tvmops.mm", (torch.zeros(48, 48), torch.zeros(48, 48)), {}, "matmul(float32;M=48,N=48,K=48)"),
        ("tvmops.mm", (torch.zeros(80, 80), torch.zeros(80, 80)), {}, GENERAL),
        ("aten.bmm", (X, X.mT), {}, GENERAL),
        ("aten.linear", (X.bfloat16(), W.bfloat16()), {}, None),
        ("aten.gelu", (X,), {}, "gelu(float32;N=*)"),
        ("aten.gelu", (X,), {"approximate": "tanh"}, "gelu_tanh(float32;N=*)"),
        ("tvmops.gelu_tanh", (X,), {}, "gelu_tanh(float32;N=*)"),
        ("aten.relu_", (X,), {}, "relu(float32;N=*)"),
        ("aten.relu", (X.bfloat16(),), {}, "relu(bfloat16;N=*)"),
        ("aten.relu", (X.double(),), {}, None),
        ("aten.relu", (X.to("meta"),), {}, None),
        ("aten.native_layer_norm", (X, [20], None, None, 1e-5), {}, "layer_norm(float32;M=*,N=*)"),
        ("tvmops.layer_norm", (X, [20]), {}, "layer_norm(float32;M=*,N=*)"),
        ("tvmops.norm_forward", (X, None, 1, None, None, 1e-5, False), {}, "layer_norm(float32;M=*,N=*)"),
        ("tvmops.norm_forward", (X, X, 1, None, None, 1e-5, True), {}, "add_rms_norm(float32;M=*,N=*)"),
        ("aten._softmax", (X, -1, False), {}, "softmax(float32;M=*,N=*)"),
        ("tvmops.cumsum", (X, 1), {}, "cumsum(float32;M=*,N=*,I=*)"),
        ("aten.view", (X, [21, 20]), {}, None),
        ("aten.add", (X, X), {}, None),
        ("aten.ones", ([3],), {}, None),
        ("my.softmax", (X, -1), {}, None),
    ],
)
def test_the_workload_of_a_call(name, args, kwargs, key):
    found = workload_of(name, args, kwargs)
    assert (found.key if found else None) == key


@pytest.fixture(scope="module")
def small() -> Profile:
    return profiling.profile(f"{ROOT / 'examples' / 'small_model.py'}:make_model", TARGET, 1)


def test_the_small_models_operators_come_with_counts_and_shares(small):
    calls = {(e.op, e.workload.key if e.workload else None): e.calls for e in small.entries}
    assert calls == {
        ("tvmops.linear", "linear(float32;M=*,N=432,K=176)"): 2,
        ("tvmops.linear", "linear(float32;M=*,N=176,K=432)"): 2,
        ("tvmops.linear", "linear(float32;M=*,N=40,K=176)"): 1,
        ("tvmops.gelu", "gelu(float32;N=*)"): 2,
        ("tvmops.layer_norm", "layer_norm(float32;M=*,N=*)"): 2,
        ("tvmops.softmax", "softmax(float32;M=*,N=*)"): 1,
        ("aten.add", None): 2,
    }
    assert sum(e.share for e in small.entries) == pytest.approx(1)
    assert all(e.seconds > 0 for e in small.entries)
    assert [e.share for e in small.entries] == sorted((e.share for e in small.entries), reverse=True)
    (add,) = [e for e in small.entries if e.op == "aten.add"]
    assert (add.kernel, add.ours) == (None, False)
    assert len(small.replaced) == 10
    assert any(text.startswith("0.up: Linear(in_features=176") for text in small.replaced)


def entry(op: str, key: str | None, share: float) -> Entry:
    return Entry(op, Workload.parse(key) if key else None, 1, share, share, None, 0, "")


def test_what_is_worth_tuning_is_ours_of_a_certain_size_and_takes_time():
    linear, small = "linear(float32;M=*,N=24,K=40)", "linear(float32;M=*,N=8,K=8)"
    entries = [
        entry("tvmops.softmax", "softmax(float32;M=*,N=*)", 0.4),
        entry("aten.linear", "linear(float32;M=*,N=99,K=40)", 0.3),
        entry("tvmops.linear", linear, 0.1),
        entry("tvmops.mm", "matmul(float32;M=16,N=16,K=16)", 0.15),
        entry("tvmops.linear", linear, 0.1),
        entry("tvmops.linear", small, 0.005),
        entry("aten.view", None, 0.1),
    ]
    profile = Profile(tuple(entries), ())
    chosen = {w.key: share for w, share in profile.worth_tuning(0.01).items()}
    assert chosen == {linear: pytest.approx(0.2), "matmul(float32;M=16,N=16,K=16)": 0.15}
    assert next(iter(chosen)) == linear
    assert next(iter(profile.worth_tuning(0.01, general=True))).op == "softmax"
    assert Workload.parse(small) in profile.worth_tuning(0.0)


def test_a_model_is_converted_in_a_copy():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    ours, replaced = converted(model)
    assert type(model[0]) is torch.nn.Linear
    assert type(ours[0]) is tvmops.nn.Linear
    assert len(replaced) == 2
    alone, replaced = converted(model[0])
    assert type(alone) is tvmops.nn.Linear
    assert len(replaced) == 1
    assert converted(torch.sin) == (torch.sin, [])


MODELS = """
import os
import torch

def not_a_tuple():
    return torch.nn.Linear(4, 4)

def not_callable():
    return 3, (torch.zeros(4),)

def bad_kwargs():
    return torch.sin, (torch.zeros(4),), 5

def unlucky():
    raise RuntimeError("no luck\\nat all")

def raises():
    return torch.nn.Linear(4, 4), (torch.zeros(3),)

def dies():
    os.abort()

def torch_alone():
    return torch.sin, torch.zeros(4)

def with_kwargs():
    return torch.softmax, (torch.zeros(4, 4),), {"dim": -1}
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker("codegen.profiling.child")
    yield started
    started.close()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nothing", "not a model: 'nothing'"),
        ("{}/no_such.py:make", "there is no file "),
        (
            "no_such_package.module:make",
            "no_such_package.module can't be imported: there is no module 'no_such_package'",
        ),
        ("{}/models.py:missing", "has no function 'missing'"),
        ("{}/broken.py:make", "broken.py can't be imported: SyntaxError: "),
        ("{}/models.py:not_a_tuple", "must return (model, args) or (model, args, kwargs), not a Linear"),
        ("{}/models.py:not_callable", "where model can be called, not a int"),
        ("{}/models.py:bad_kwargs", "kwargs a mapping, not a tuple of"),
        ("{}/models.py:unlucky", "models.py:unlucky raised RuntimeError: no luck ("),
        ("{}/models.py:raises", "models.py:raises raised RuntimeError: "),
    ],
)
def test_what_is_no_model_is_refused_in_a_sentence(tmp_path, worker, spec, said):
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "broken.py").write_text("def make(:")
    answer = worker.call({"what": "profile", "model": spec.format(tmp_path), "threads": 1}, 60)
    assert answer["status"] == "refused"
    assert said in answer["reason"]
    assert "\n" not in answer["reason"]


@pytest.mark.parametrize(
    ("function", "said"),
    [("dies", "took its process down: killed by SIGABRT"), ("missing", "has no function 'missing'")],
)
def test_a_refusal_reaches_the_caller(tmp_path, function, said):
    (tmp_path / "models.py").write_text(MODELS)
    with pytest.raises(CodegenError, match=said):
        profiling.profile(f"{tmp_path}/models.py:{function}", TARGET, 1)


def test_functions_and_keyword_arguments_will_do(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    alone = profiling.profile(f"{tmp_path}/models.py:torch_alone", TARGET, 1)
    assert [(e.op, e.workload, e.share) for e in alone.entries] == [("aten.sin", None, 1.0)]
    assert alone.worth_tuning(0.0, general=True) == {}
    (softmax,) = profiling.profile(f"{tmp_path}/models.py:with_kwargs", TARGET, 1).entries
    assert (softmax.op, softmax.workload.op, softmax.ours) == ("aten.softmax", "softmax", False)
