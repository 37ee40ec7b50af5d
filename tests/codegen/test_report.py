from __future__ import annotations

import base64
import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest
from typer.testing import CliRunner, Result

from codegen import ops
from codegen.commands import app
from codegen.records import store
from codegen.report import analysis, bars, collect
from codegen.target import find
from codegen.workload import Workload
from tests.records import KEY, LIMITS, RECORD, TARGET, failed, ok

HOSTILE = "softmax(<img src=x onerror=alert(1)>&amp;)"


def group(records: Sequence[store.Record]) -> collect.Group:
    return collect.Group(KEY, TARGET, [Path("records/x86-64-v4.jsonl")] * len(records), list(records))


# Trials and curves


def test_the_best_so_far_never_falls():
    rng = random.Random(0)
    trials = [ok(rng.uniform(0.5, 2)) if rng.random() < 0.7 else failed("hung", "late") for _ in range(50)]
    best = analysis.best_so_far([failed("crashed", "SIGSEGV"), ok(0.5), ok(0.4), *trials])
    assert best[:3] == [0, 0.5, 0.5]
    assert all(b >= a for a, b in itertools.pairwise(best))
    assert best[-1] == max(t.ratio for t in trials)


def test_winners_that_were_measured_again_are_no_trials():
    sweep = ok(1.1, {"mr": 1}, plan="11")
    first, second, again = ok(1.3, {"mr": 2}), ok(1.2, {"mr": 3}), ok(1.25, {"mr": 2}, plan="44")
    found = group([sweep, first, second, again])
    assert found.trials == [sweep, first, second]
    assert found.again == [again]
    assert found.best is again


def test_runs_are_apart_by_file_strategy_and_seed(tmp_path):
    store.rewrite(tmp_path / "a" / f"{TARGET}.jsonl", [ok(1.0), ok(1.1, seed=1), ok(1.2, strategy="guided"), ok(1.3)])
    store.rewrite(tmp_path / "b" / f"{TARGET}.jsonl", [ok(1.4, date="2025-01-02T03:04:05Z")])
    (found,) = collect.collect(tmp_path)
    assert [r.ratio for r in found.records] == [1.4, 1.0, 1.1, 1.2, 1.3]
    told = [(run.strategy, run.seed, [r.ratio for r in run.trials]) for run in found.runs]
    assert told == [("random", 0, [1.4]), ("random", 0, [1.0, 1.3]), ("random", 1, [1.1]), ("guided", 0, [1.2])]
    assert found.folder == tmp_path / "b"


def test_a_curve_is_the_median_of_the_runs_as_far_as_all_went():
    lines = [[1.0, 2.0, 1.5, 9.0], [2.0, 2.0, 4.0], [0.5, 3.0, 3.0]]
    runs = [collect.Run("random", seed, [ok(value) for value in line]) for seed, line in enumerate(lines)]
    (curve,) = analysis.curves(runs)
    assert curve.runs == [[1, 2, 2, 9], [2, 2, 4], [0.5, 3, 3]]
    assert curve.median.tolist() == [1, 2, 3]
    assert (curve.low <= curve.median).all()
    assert (curve.median <= curve.high).all()


def test_reasons_that_differ_in_numbers_are_one():
    wrong = [failed("wrong", f"M={m}: relative error {m * 1.5e-3:.2g}") for m in (1, 2, 2)]
    found = analysis.failures([failed("hung", "no answer"), *wrong, ok(1.0), failed("crashed", "no answer")])
    assert [(f.status, f.count, f.kinds) for f in found] == [("wrong", 3, 2), ("crashed", 1, 1), ("hung", 1, 1)]
    assert found[0].reason == "M=1: relative error 0.0015"


def test_points_are_named_by_what_differs():
    assert bars.point_names(RECORD.points) == ["M=1, 1 thread", "M=1, 2 threads", "M=16, 1 thread", "M=16, 2 threads"]
    assert bars.point_names(RECORD.points[:1]) == ["M=1, N=24, K=40, packed, 1 thread"]


# The command


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


class _Page(HTMLParser):
    """Tags and attributes, and the text of table rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[tuple[str | None, list[str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append((dict(attrs).get("class"), []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][1][-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Result, Path, Path]:
    """A report of a search with failures and a winner, of one record, of two strategies, and of nothing that is ok."""
    records, out = tmp_path_factory.mktemp("a folder") / "records", tmp_path_factory.mktemp("out") / "made"
    rng = random.Random(0)
    space = ops.load("linear").space(Workload.parse(KEY), find(TARGET))
    domains = {knob.name: knob.values for knob in space.knobs}
    search = []
    for i in range(30):
        knobs = {name: rng.choice(values) for name, values in domains.items()}
        search.append(ok(0.5 + 0.02 * knobs["mr"] + 0.001 * i, knobs, trial=i))
    search += [failed("wrong", "<script>alert(2)</script>"), failed("crashed", "killed by SIGSEGV")]
    changed = {**RECORD.knobs, "nr": next(v for v in domains["nr"] if v != RECORD.knobs["nr"])}
    search += [ok(1.5, changed), ok(1.4, changed, plan="4444444444")]
    two = [
        ok(1 + 0.01 * rng.random(), {"mr": i}, strategy=strategy, seed=seed, workload=HOSTILE)
        for strategy in ("random", "$x^$ [bold]")
        for seed in (0, 1)
        for i in range(3)
    ]
    none = [failed("hung", "no answer within 300 s", workload="softmax(float32;M=*,N=*)")]
    store.rewrite(records / f"{TARGET}.jsonl", [*search, *two, *none])
    default = ops.load("linear").space(Workload.parse(KEY), find("x86-64-v3")).default()
    store.rewrite(records / "x86-64-v3.jsonl", [replace(RECORD, target="x86-64-v3", knobs=default)])
    known = records / "limits.json"
    known.write_text(json.dumps(LIMITS))
    result = run("--records", records, "--out", out, "--limits", known)
    assert result.exit_code == 0, result.output
    return result, records, out


def test_the_page_holds_what_was_found(written):
    _, records, out = written
    html = (out / "index.html").read_text()
    page = _Page(html)
    text = " ".join(page.text.split())
    for name in (f"{KEY} on {TARGET}", f"{KEY} on x86-64-v3", f"{HOSTILE} on {TARGET}", "softmax(float32;M=*,N=*) on"):
        assert name in text
    assert "31 of 33 trials were ok (94 %)" in text
    assert "33 trials, and 1 measured again" in text
    assert "Best: 1.400 × ATen" in text
    assert "No candidate was ok." in text
    assert "Left out: this takes 20 distinct choices that were ok, not 1." in text
    assert "From the 31 distinct choices" in text
    rows = [cells for _, cells in page.rows]
    assert ["wrong", "1", "<script>alert(2)</script>"] in [[c.strip() for c in cells] for cells in rows]
    assert any(cells[:2] == ["hung", "1"] and "no answer within 300 s" in cells[2] for cells in rows)
    folder = f"'{records}'"  # it has a space
    assert f"python -m codegen build --records {folder} --target {TARGET} --out build/mine" in page.text
    assert f"python -m codegen show '{KEY}@{TARGET}' --records {folder} --what asm" in page.text


def test_limits_are_told_with_their_machine(written):
    text = (written[2] / "index.html").read_text()
    assert text.count("(limits.json, A CPU)") == 2
    assert "limits.json, A CPU has none for these points" in text


def test_a_winner_that_the_space_no_longer_holds_is_told(tmp_path):
    store.rewrite(tmp_path / f"{TARGET}.jsonl", [ok(1.0, {**RECORD.knobs, "mr": 99})])
    assert run("--records", tmp_path, "--out", tmp_path).exit_code == 0
    assert "as the space has changed: mr=99 is not one of" in (tmp_path / "index.html").read_text()


def test_nothing_from_records_becomes_markup_or_comes_from_elsewhere(written):
    page = _Page((written[2] / "index.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/png;base64,")
    targets = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert targets == {f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"}


def test_the_best_knobs_are_shown_and_those_tuned_marked(written):
    page = _Page((written[2] / "index.html").read_text())
    changed = [cells for look, cells in page.rows if look == "changed"]
    assert [cells[0] for cells in changed] == ["nr"]
    assert changed[0][1] != changed[0][2] == str(RECORD.knobs["nr"])
    shown = {tuple(cells[:3]) for _, cells in page.rows}
    assert ("mr", str(RECORD.knobs["mr"]), str(RECORD.knobs["mr"])) in shown
    assert ("mr", "unknown") in {(name, default) for name, _, default in (s for s in shown if len(s) == 3)}


def test_pictures_are_of_a_sensible_size_and_in_the_page(written):
    out = written[2]
    html = (out / "index.html").read_text()
    embedded = {base64.b64decode(code) for code in re.findall(r"base64,([A-Za-z0-9+/=]+)", html)}
    paths = sorted(out.glob("*.png"))
    assert embedded == {path.read_bytes() for path in paths}
    kinds = [path.stem.rsplit("-", 1)[1] for path in paths]
    assert {kind: kinds.count(kind) for kind in kinds} == {"trials": 4, "importance": 1, "calibration": 1, "points": 3}
    for path in paths:
        pixels = matplotlib.image.imread(path)
        height, width = pixels.shape[:2]
        assert 400 <= width <= 1600
        assert 200 <= height <= 1600
        assert (pixels[0, -1, :3] == 1).all()  # light
        assert (pixels[..., :3] < 0.5).any()  # and not empty


def test_the_terminal_has_a_line_for_each(written):
    shown = written[0].stdout
    assert "94%" in shown
    assert "1.400" in shown
    assert "1 wrong, 1 crashed" in shown
    assert "softmax(<img src=x onerror=alert(1)>&amp;)" in shown
    assert shown.splitlines()[-1] == str(written[2] / "index.html")


def test_a_pattern_and_a_target_choose(written, tmp_path):
    result = run("softmax(f*", "--records", written[1], "--target", TARGET, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert [path.name.rsplit("-", 1)[1] for path in tmp_path.glob("*.png")] == ["trials.png"]
    assert KEY not in (tmp_path / "index.html").read_text()


def test_the_same_records_make_the_same_page(written, tmp_path):
    for out in (tmp_path / "a", tmp_path / "b"):
        run(KEY, "--target", "x86-64-v3", "--records", written[1], "--out", out)
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("", [], "holds no records"),
        (None, [], "holds no records"),
        (RECORD.to_json(), ["conv*"], "holds no records of a workload like 'conv*'"),
        (RECORD.to_json(), ["--target", "vax"], "holds no records for vax, only for x86-64-v4"),
        ('{"format": 99}', [], f"{TARGET}.jsonl:1: record format 99 is newer than 1"),
        (RECORD.to_json(), ["--limits", "no-such.json"], "can't read the limits in no-such.json"),
        (RECORD.to_json(), ["--out", f"{__file__}/out"], f"can't write the report to {__file__}/out: "),
    ],
)
def test_what_cannot_be_used_is_named_in_one_sentence(tmp_path, content, arguments, said):
    if content is not None:
        (tmp_path / f"{TARGET}.jsonl").write_text(content + "\n")
    result = run("--records", tmp_path, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_broken_line_is_named_and_the_rest_is_shown(tmp_path):
    (tmp_path / f"{TARGET}.jsonl").write_text(f"{{broken\n{RECORD.to_json()}\n")
    result = run("--records", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"{TARGET}.jsonl:1: skipped, not JSON" in result.stderr


def test_other_commands_do_without_matplotlib():
    code = "import sys, codegen.commands; print(*sorted({'matplotlib', 'sklearn', 'jinja2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
