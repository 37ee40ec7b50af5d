from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from codegen import ops
from codegen.commands import app
from codegen.records import store
from codegen.workload import Workload

KEY = "linear(float32;M=*,N=24,K=40)"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def good(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def few(monkeypatch):
    """A default pack of the GEMM family alone, which is quickly made."""
    shipped = [workload for workload in ops.shipped() if workload.op in ("matmul", "linear")]
    monkeypatch.setattr(ops, "shipped", lambda: shipped)


def test_list_shows_what_the_default_pack_holds():
    shown = good("list")
    for key in ("matmul(float32;M=*,N=*,K=*)", "linear(float32;M=*,N=384,K=1536)"):
        assert key in shown
    assert "x86-64-v3" in shown
    assert "x86-64-v4" in shown
    assert "x86-64-v4" not in good("list", "--target", "x86-64-v3")


@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        (["--what", "te"], "Y[v_i, v_j] = product[v_i, v_j] + bias[v_j]"),
        (["--what", "tir", "--leaf", "copy"], "def tvmops_x86_64_v4_copy("),
        (["--what", "ll", "--leaf", "dot.1x1"], "define"),
        (["--what", "asm", "--knob", "mr=12", "--knob", "nr=32", "--leaf", "tile.12x32"], "zmm"),
        (["--what", "c"], "tvmops_pack pack"),
        (["--what", "space", "--target", "x86-64-v3", "--knob", "mr=4"], "[4]"),
    ],
)
def test_show(arguments, holds):
    assert holds in good("show", KEY, *arguments)


def test_a_kernels_full_name_is_a_key_too():
    shown = good("show", f"{KEY}@x86-64-v3", "--what", "asm", "--leaf", "tile.4x16")
    assert "ymm" in shown
    assert "zmm" not in shown


TUNE = ["tune", "--op", "linear", "--dims", "M=*,N=24,K=40"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "nonsense"], "not a workload key: 'nonsense'"),
        (["show", "conv9(float32;M=*)"], "unknown operator 'conv9'; known: "),
        (["show", KEY, "--target", "vax"], "unknown target 'vax'; known: x86-64-v3"),
        (["show", f"{KEY}@vax"], "unknown target 'vax'"),
        (["show", KEY, "--what", "smoke"], "unknown view 'smoke'; known: tir"),
        (["show", KEY, "--leaf", "tile.99x1"], "unknown leaf 'tile.99x1'; known: tile.1x"),
        (["show", KEY, "--knob", "tile=3"], "unknown knob 'tile'"),
        (["show", KEY, "--knob", "mr"], "not a knob: 'mr'"),
        (["show", KEY, "--knob", "mr=16", "--knob", "nr=64"], "registers"),
        (["build", "--target", "vax"], "unknown target 'vax'"),
        (["build", "--target", "sm_70"], "unknown GPU target 'sm_70'; known: sm_80"),
        (["export", "--target", "sm_80", "--target", "x86-64-v3"], "an export is for CPUs or for GPUs, not for both"),
        (["show", "matmul(float16;M=*,N=*,K=*;a=n,b=t)@sm_80", "--what", "asm"], "unknown view 'asm'; known: tir, cu"),
        (["tune", "--op", "conv9", "--dims", "M=*"], "unknown operator 'conv9'"),
        (["tune", "--op", "linear", "--dims", "M=0,N=8,K=8"], "not a dimension: 'M=0'"),
        (["tune", "--op", "linear", "--dims", "M=*,N=*,K=8"], "M symbolic, N static, K static"),
        ([*TUNE, "--target", "vax"], "unknown target 'vax'"),
        ([*TUNE, "--strategy", "luck"], "unknown strategy 'luck'; known: "),
        ([*TUNE, "--threads", "1,x"], "not a list of thread counts: '1,x'"),
        (["ship", "--records", "no-such-folder"], "no-such-folder holds no record with a plan"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_sentence(arguments, said):
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_files_that_cannot_be_written_are_named(few, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.touch()
    for arguments in (
        ["build", "--target", "x86-64-v3", "--out", blocked / "pack"],
        ["export", "--target", "x86-64-v3", "--out", blocked / "pack"],
        [*TUNE, "--target", "native", "--records", blocked / "records"],
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert str(blocked) in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.output


def test_a_broken_record_line_is_named_and_the_rest_is_used(tmp_path):
    (tmp_path / "x86-64-v3.jsonl").write_text("{broken\n")
    result = run("list", "--target", "x86-64-v3", "--records", tmp_path)
    assert result.exit_code == 0
    assert f"{tmp_path / 'x86-64-v3.jsonl'}:1: skipped, not JSON" in result.stderr
    assert "matmul(" in result.stdout


def test_a_newer_record_stops_everything(tmp_path):
    (tmp_path / "x86-64-v3.jsonl").write_text('{"format": 99}\n')
    result = run("list", "--target", "x86-64-v3", "--records", tmp_path)
    assert result.exit_code == 2
    assert "record format 99 is newer than 1" in result.stderr


def test_build_makes_a_pack_once(few, tmp_path):
    out = tmp_path / "pack"
    said = good("build", "--target", "x86-64-v3", "--out", out)
    assert "kernels for x86-64-v3" in said
    library = out / "default.so"
    before = library.stat()
    assert "up to date" in good("build", "--target", "x86-64-v3", "--out", out)
    assert library.stat().st_mtime_ns == before.st_mtime_ns
    files = {path.name for path in (out / "export").iterdir()}
    assert {"pack.c", "abi.h", "manifest.json", "leaves-x86-64-v3-matmul.o", "leaves-x86-64-v3-matmul.ll"} <= files
    manifest = json.loads((out / "export" / "manifest.json").read_text())
    assert "matmul(float32;M=*,N=*,K=*)@x86-64-v3" in [kernel["name"] for kernel in manifest["kernels"]]

    library.unlink()
    assert "up to date" not in good("build", "--target", "x86-64-v3", "--out", out)
    script = f"import tvmops; print(tvmops.load_pack({str(library)!r}))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "True", ran.stderr


def test_tune_measures_records_and_goes_on(few, tmp_path):
    arguments = [*TUNE, "--records", tmp_path, "--seed", "3", "--trials", "2"]
    assert f"{KEY} on " in good(*arguments)
    (path,) = tmp_path.iterdir()
    records = store.read(path, strict=True)
    assert len({r.trial for r in records[:2]}) == 2
    assert [r.plan is None for r in records] == [True, True, False]
    assert len(records[2].plan) == len(records[2].ratios) == 10
    assert records[0].status == "ok"
    assert records[0].points
    assert {r.seed for r in records} == {3}
    assert "2 choices of linear" in good(*arguments)
    assert store.read(path, strict=True) == records

    out = tmp_path / "exported"
    good("export", "--target", path.stem, "--out", out, "--records", tmp_path)
    manifest = json.loads((out / "manifest.json").read_text())
    (kernel,) = [k for k in manifest["kernels"] if k["workload"] == KEY]
    best = store.best(records, Workload.parse(KEY), path.stem)
    assert kernel["knobs"] == best.knobs
    assert kernel["record"]["seconds"] == best.seconds
    assert kernel["record"]["machine"] == best.machine
