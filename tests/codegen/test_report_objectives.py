"""Several objectives: the front holds what nothing beats, the score weighs ratios; and the page tells both."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from pathlib import Path

import matplotlib.image
import pytest
from typer.testing import CliRunner

from codegen import objectives, ops
from codegen.commands import app
from codegen.errors import CodegenError
from codegen.records import store
from codegen.report import collect, page, pareto, summary, trials
from codegen.report.limits import Limits
from codegen.spaces.solver import Solver
from codegen.target import find
from codegen.workload import Workload
from tests.records import KEY, RECORD, TARGET


@dataclass(frozen=True)
class Costly(store.Record):
    """A record that has all objectives."""

    code_bytes: int | None = None
    workspace_bytes: int | None = None
    joules: float | None = None


BASE = Costly(**{field.name: getattr(RECORD, field.name) for field in fields(store.Record)})


def record(time: float, code: int | None, **more: object) -> Costly:
    return replace(BASE, aten_seconds=1.0, seconds=time, code_bytes=code, **more)


def test_the_front_holds_what_nothing_dominates():
    rng = random.Random(0)
    records = [record(rng.choice((1, 2, 3, 4)), rng.choice((10, 20, 30, 40))) for _ in range(30)]
    found = objectives.front(records, ["time", "code"])

    def place(r: Costly) -> tuple[float, float]:
        return (r.seconds, r.code_bytes)

    for one in records:
        beaten = any(
            place(o) != place(one) and all(a <= b for a, b in zip(place(o), place(one), strict=True)) for o in records
        )
        assert any(one is kept for kept in found) == (not beaten)
    assert [place(r) for r in found] == sorted(map(place, found))


def test_what_was_not_measured_or_not_ok_is_on_no_front():
    fine = record(2.0, 10)
    others = [record(1.0, None), replace(record(1.0, 1), status="wrong", reason="no")]
    assert objectives.front([fine, *others], ["time", "code"]) == [fine]
    assert objectives.values(others[0], ["time"]) == (1.0,)
    assert objectives.values(RECORD, ["energy"]) is None


def test_a_score_is_a_weighted_geometric_mean_of_ratios_to_the_fastest():
    fast, small, middle = record(1.0, 4000), record(2.0, 1000), record(1.5, 4000)
    records = [middle, fast, small, record(3.0, None)]
    assert objectives.scores(records, {"time": 1.0}) == pytest.approx([1.5, 1, 2, 3])
    even = objectives.scores(records, {"time": 1.0, "code": 1.0})
    assert even[:3] == pytest.approx([1.5**0.5, 1, (2 / 4) ** 0.5])
    assert even[3] is None
    assert objectives.scores(records, {"time": 3.0, "code": 1.0})[2] == pytest.approx((2**3 / 4) ** 0.25)
    assert objectives.best(records, {"time": 1.0, "code": 0.2})[0] is fast
    assert objectives.best(records, {"time": 1.0, "code": 1.0})[0] is small
    assert objectives.best(records, {"energy": 1.0}) is None
    assert objectives.best([], {"time": 1.0}) is None


def test_no_bytes_at_all_can_be_scored():
    none, some = record(2.0, 1, workspace_bytes=0), record(1.0, 1, workspace_bytes=1024)
    assert objectives.best([none, some], {"time": 1.0, "workspace": 1.0})[0] is none


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time=1,taste=2", "unknown objective 'taste'; known: time, code, workspace, energy"),
        ("time=1,time=2", "objective 'time' is given twice"),
        ("time", "not a weight: 'time'"),
        ("time=0", "not a weight: 'time=0'"),
        ("time=inf", "not a weight: 'time=inf'"),
        ("code=much", "not a weight: 'code=much'"),
    ],
)
def test_weights_that_are_none_are_named(tmp_path, text, said):
    with pytest.raises(CodegenError, match=said):
        objectives.weights_of(text)
    (tmp_path / f"{TARGET}.jsonl").write_text(RECORD.to_json() + "\n")
    result = CliRunner().invoke(app, ["report", "--records", str(tmp_path), "--weights", text])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_weights_are_read():
    assert objectives.weights_of("time=1, code=0.2") == {"time": 1.0, "code": 0.2}


# The page


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[page.Section, str]:
    """Of a group with two spaces, two strategies, all objectives, and a status that this version does not know."""
    rng = random.Random(0)
    solver = Solver(ops.load("linear").space(Workload.parse(KEY), find(TARGET)))
    records = [replace(BASE, status="melted", reason="too hot", seconds=None, aten_seconds=None, points=[])]
    for i in range(44):
        knobs = solver.sample(rng)
        assert knobs is not None
        time = 2 / knobs["mr"] + 0.001 * i
        costs = {"workspace_bytes": 4 * knobs["mc"] * knobs["kc"], "joules": time * 0.01}
        strategy = ("random", "genetic")[i % 2]
        records.append(record(time, 100 * knobs["mr"] * knobs["nr"] + i, knobs=knobs, strategy=strategy, **costs))
        other = {"tile": rng.choice((1, 2, 4, 8)), "order": i % 3}
        records.append(record(3 - 0.1 * other["tile"], None, space="other", knobs=other))
    group = collect.Group(KEY, TARGET, [Path("records/x86-64-v4.jsonl")] * len(records), records)
    out = tmp_path_factory.mktemp("objectives")
    weights = {"time": 1.0, "code": 0.2}
    written, (section,) = page.write([group], Limits(), out, lambda *_: None, weights)
    return section, written.read_text()


def test_each_space_is_studied_by_itself(made):
    section, html = made
    gemm, other = section.studies
    assert (gemm.space, other.space) == ("gemm", "other")
    assert gemm.importance.knobs[0] == "mr"
    assert section.study is gemm
    assert other.importance is None
    assert "takes 20 distinct choices" in other.missing
    assert "how well models rank: the space other" in html
    assert {run.strategy for run in section.group.runs} == {"random, gemm", "genetic, gemm", "random, other"}


def test_cost_models_are_judged_on_trials_that_they_have_not_seen(made):
    section, html = made
    judged = section.studies[0].models
    assert set(judged) | set(section.studies[0].absent) == {"forest", "mlp", "xgboost-rank"}
    # Time is 2 / mr but for noise, which each of them can learn from 35 choices.
    assert judged["forest"] > 0.6
    assert all(-1 <= rho <= 1 for rho in judged.values())
    for name, rho in judged.items():
        assert f'<td>{name}</td><td class="number">{rho:.2f}</td>' in html


def test_the_front_is_drawn_and_the_best_by_score_told(made):
    section, html = made
    assert pareto.others(section.group.records) == ["code", "workspace", "energy"]
    pixels = matplotlib.image.imread(section.pictures["pareto"])
    assert (pixels[..., 2] - pixels[..., 0] > 0.4).any()  # the front's blue
    found, score = objectives.best(section.group.records, {"time": 1.0, "code": 0.2})
    assert section.scored.record is found
    assert f"Best by time=1, code=0.2: score {score:.3f}" in html
    shown = summary.scores([section])
    assert next(iter(shown.columns[2].cells)).plain == f"{score:.3f}"
    assert not pareto.others([RECORD])


def test_every_status_shows(made):
    section, html = made
    assert "<td>melted</td>" in html
    drawn: list[list[str]] = []

    class Axes:
        def __getattr__(self, name: str) -> object:
            return lambda *arguments, **_: drawn.append(arguments[1]) if name == "set_yticks" else None

    trials._failures(Axes(), section.group, ["melted"])  # type: ignore[arg-type]
    assert drawn == [["melted (1)"]]


def test_looks_differ_beyond_the_colours():
    names = [str(i) for i in range(24)]
    assert len({trials._look(names, name) for name in names}) == 24
