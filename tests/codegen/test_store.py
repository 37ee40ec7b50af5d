from __future__ import annotations

import json
import multiprocessing
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from codegen.errors import CodegenError
from codegen.records import SHIPPED, store
from codegen.workload import Workload

KEY = "linear(float32;M=*,N=8,K=8)"
RECORD = store.Record(
    workload=KEY,
    target="x86-64-v4",
    space="gemm",
    knobs={"mr": 14, "nr": 32},
    status="ok",
    seconds=1e-3,
    aten_seconds=2e-3,
    points=[{"sizes": {"M": 1}, "layout": "packed", "threads": 1, "seconds": 1e-3, "aten_seconds": 2e-3}],
    error=2e-7,
    aten_error=3e-7,
    machine={"cpu": "Some CPU", "threads": 2, "torch": "2.13.0", "tvm": "0.27.0"},
    date="2026-01-02T03:04:05Z",
    seed=0,
    strategy="random",
    trial=0,
)
FAILED = replace(RECORD, status="crashed", reason="killed by SIGSEGV", seconds=None, aten_seconds=None, points=[])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "x86-64-v4.jsonl"


def test_what_is_written_is_read(path):
    records = [RECORD, FAILED, replace(RECORD, plan="04a", ratios=[1.5, None, 0.5])]
    for record in records:
        store.append(path, record)
    assert store.read(path, strict=True) == records
    assert records[2].routes() == [0, 4, 10]


def test_no_file_holds_no_records(path):
    assert store.read(path, strict=True) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("\xff", "not JSON"),
        (json.dumps({"format": 1}), "required"),
        (RECORD.to_json().replace('"trial":0', '"trial":-1'), "trial: -1"),
        (RECORD.to_json().replace('"status":"ok"', '"status":"fine"'), "status: 'fine'"),
        (RECORD.to_json().replace('"seconds":0.001', '"seconds":NaN', 1), "NaN is no number"),
        (RECORD.to_json().replace('"error":2e-07,', ""), "'error' is a required property"),
        (RECORD.to_json()[:-1] + ',"extra":1}', "'extra' was unexpected"),
    ],
)
def test_a_bad_line_is_named_and_skipped_or_refused(path, line, said):
    path.parent.mkdir()
    path.write_bytes(f"{RECORD.to_json()}\n{line}\n\n{FAILED.to_json()}\n".encode("latin-1"))
    with pytest.warns(UserWarning, match=r"x86-64-v4\.jsonl:2: skipped, ") as warned:
        assert store.read(path) == [RECORD, FAILED]
    assert said in str(warned[0].message)
    with pytest.raises(CodegenError, match=r"x86-64-v4\.jsonl:2: "):
        store.read(path, strict=True)


def test_bytes_that_are_no_text_are_a_bad_line(path):
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\n" + RECORD.to_json().encode() + b"\n")
    with pytest.warns(UserWarning, match=":1: skipped"):
        assert store.read(path) == [RECORD]


@pytest.mark.parametrize("left", [1, 20, len(FAILED.to_json()) - 1])
def test_a_line_that_was_cut_off_loses_only_itself(path, left):
    store.append(path, RECORD)
    with path.open("a") as file:
        file.write(FAILED.to_json()[:left])
    assert store.read(path, strict=True) == [RECORD]
    store.append(path, FAILED)
    assert store.read(path, strict=True) == [RECORD, FAILED]


def test_a_last_line_that_only_lacks_its_end_is_kept(path):
    path.parent.mkdir()
    path.write_text(RECORD.to_json())
    assert store.read(path, strict=True) == [RECORD]
    store.append(path, FAILED)
    assert store.read(path, strict=True) == [RECORD, FAILED]


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_newer_format_is_refused_and_not_touched(path, end):
    path.parent.mkdir()
    path.write_text(RECORD.to_json().replace('"format":1', '"format":2') + end)
    before = path.read_bytes()
    with pytest.raises(CodegenError, match=r":1: record format 2 is newer than 1") as caught:
        store.read(path)
    assert "\n" not in str(caught.value)
    if not end:
        with pytest.raises(CodegenError, match="record format 2 is newer"):
            store.append(path, RECORD)
        assert path.read_bytes() == before


def test_an_invalid_record_is_not_written(path):
    store.append(path, RECORD)
    with pytest.raises(CodegenError, match="trial"):
        store.append(path, replace(RECORD, trial=-1))
    with pytest.raises(ValueError, match="JSON"):
        store.append(path, replace(RECORD, seconds=float("nan")))
    assert store.read(path, strict=True) == [RECORD]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "a file"
    blocked.touch()
    for path in (blocked / "x.jsonl", tmp_path):
        for write in (store.check_writable, lambda p: store.append(p, RECORD)):
            with pytest.raises(CodegenError, match="can't write") as caught:
                write(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


def _fill_up(path: Path, answers: multiprocessing.Queue[tuple[str, int]]) -> None:
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        store.append(path, RECORD)
    except CodegenError as error:
        answers.put((str(error), path.stat().st_size - size))


def test_a_disk_that_is_full_loses_only_the_new_record(path):
    store.append(path, RECORD)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    process = context.Process(target=_fill_up, args=(path, answers))
    process.start()
    said, grown = answers.get(timeout=30)
    process.join()
    assert str(path) in said
    assert "only 100 of" in said
    assert grown == 0
    assert store.read(path, strict=True) == [RECORD]


def _append_many(path: Path, seed: int, count: int) -> None:
    for trial in range(count):
        store.append(path, replace(RECORD, seed=seed, trial=trial))


def test_a_full_disk_is_one_sentence():
    with pytest.raises(CodegenError, match=r"^can't write the record to /dev/full: No space left on device$"):
        store.append(Path("/dev/full"), RECORD)


def test_a_record_tells_more_than_time(path):
    more = replace(RECORD, spread=0.01, noisy=True, workspace_bytes=0, code_bytes=4096, joules=1e-3)
    out_of_memory = replace(FAILED, status="exhausted", reason="MemoryError")
    for record in (more, out_of_memory, RECORD):
        store.append(path, record)
    assert store.read(path, strict=True) == [more, out_of_memory, RECORD]
    assert "joules" not in RECORD.to_json()
    with pytest.raises(CodegenError, match="code_bytes: -1"):
        store.append(path, replace(RECORD, code_bytes=-1))


def test_searches_can_share_a_file(path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_many, args=(path, seed, 40)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    records = store.read(path, strict=True)
    assert sorted((r.seed, r.trial) for r in records) == [(s, t) for s in range(4) for t in range(40)]


def test_best_prefers_a_plan_then_speed_and_never_a_failure():
    workload = Workload.parse(KEY)
    slow, fast = replace(RECORD, seconds=1.9e-3), replace(RECORD, seconds=0.5e-3)
    planned = replace(RECORD, plan="4444")
    other = replace(fast, workload="linear(float32;M=*,N=9,K=8)", plan="4")
    assert store.best([FAILED], workload, "x86-64-v4") is None
    assert store.best([slow, fast, FAILED, other], workload, "x86-64-v4") is fast
    assert store.best([slow, planned, fast, other], workload, "x86-64-v4") is planned
    assert store.best([slow, planned, fast], workload, "x86-64-v3") is None


def test_rewriting_replaces_the_whole_file_and_leaves_nothing_behind(path):
    store.append(path, RECORD)
    store.rewrite(path, [FAILED])
    assert store.read(path, strict=True) == [FAILED]
    assert os.listdir(path.parent) == [path.name]


def test_shipped_records_are_valid_ok_and_one_a_workload():
    for path in SHIPPED.glob("*.jsonl"):
        records = store.read(path, strict=True)
        assert all(r.status == "ok" and r.target == path.stem for r in records)
        assert len({r.workload for r in records}) == len(records)
        for record in records:
            assert record.error is not None
            assert record.aten_error is not None
            floor = 1e-7 if record.space == "gemm" else 1e-6  # transcendental functions and reductions add their own
            assert record.error <= max(2 * record.aten_error, floor)
