from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codegen import ops, tune
from codegen.errors import CodegenError
from codegen.export import selection
from codegen.measure.measurer import Outcome
from codegen.records import store
from codegen.search.economy import NearBad, Patience
from codegen.search.strategy import identity
from codegen.spaces import space as spaces
from codegen.target import find
from codegen.workload import Workload

WORKLOAD = Workload.parse("linear(float32;M=*,N=24,K=40)")
TARGET = find("x86-64-v3")
MACHINE = {"cpu": "Some CPU", "threads": 2, "torch": "2", "tvm": "0"}


class Bench:
    """Measures by a formula; may fail on the way."""

    def __init__(self, fail_at: dict[int, str | type[BaseException]] | None = None) -> None:
        self.measured: list[tuple[tuple[str, int], ...]] = []
        self.batches: list[int] = []
        self.planned: list[dict[str, int]] = []
        self._fail_at = fail_at or {}

    def measure(self, choice, rounds=1) -> Outcome:
        self.measured.append(identity(choice))
        failure = self._fail_at.get(len(self.measured))
        if isinstance(failure, str):
            return Outcome(failure, f"it {failure}")
        if failure is not None:
            raise failure
        return Outcome("ok", None, 1e-3 / choice["mr"], 1e-3, 1e-7, 2e-7)

    def measure_all(self, choices, rounds=1) -> Iterator[Outcome]:
        self.batches.append(len(choices))
        return (self.measure(choice, rounds) for choice in choices)

    def plan(self, choice) -> dict[str, Any]:
        self.planned.append(dict(choice))
        return {"status": "ok", "plan": "0444444444", "ratios": [None] * 10}


def search(directory: Path, bench: Bench, seed: int = 0, strategy: str = "random", **knobs: int) -> tune.Search:
    space = ops.load(WORKLOAD.op).space(WORKLOAD, TARGET)
    spaces.pin(space, knobs)
    path = store.file_of(directory, TARGET.name)
    return tune.Search(WORKLOAD, TARGET, space, strategy, seed, path, MACHINE, bench)


def on_disk(directory: Path) -> list[store.Record]:
    return store.read(store.file_of(directory, TARGET.name), strict=True)


def test_every_trial_is_recorded_the_default_first_none_twice(tmp_path):
    bench, reported = Bench(), []
    run = search(tmp_path, bench)
    run.run(6, None, reported.append)
    assert on_disk(tmp_path) == reported == run.records
    assert len(set(bench.measured)) == 6
    assert reported[0].knobs == run.space.default()
    assert [r.trial for r in reported] == list(range(6))
    assert run.best == max(reported, key=lambda r: r.knobs["mr"])


@pytest.mark.parametrize("status", ["crashed", "hung", "wrong", "failed"])
def test_a_failed_trial_is_kept_with_its_reason_and_never_made_a_kernel(tmp_path, status):
    run = search(tmp_path, Bench({1: status, 3: status}))
    run.run(4, None, lambda _: None)
    records = on_disk(tmp_path)
    assert [r.status for r in records] == [status, "ok", status, "ok"]
    assert records[0].reason == f"it {status}"
    assert run.best.status == "ok"
    assert {r.status for r in selection.records_of(TARGET, [tmp_path]) if r.workload == WORKLOAD.key} == {"ok"}


def test_nothing_but_failures_gives_no_winner(tmp_path):
    bench = Bench({1: "crashed", 2: "hung"})
    run = search(tmp_path, bench)
    run.run(2, None, lambda _: None)
    assert run.best is None
    assert run.crown() is None
    assert bench.planned == []


def test_a_search_that_was_killed_goes_on_where_it_was(tmp_path):
    first = Bench({4: KeyboardInterrupt})
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, first).run(8, None, lambda _: None)
    assert len(on_disk(tmp_path)) == 3

    path = store.file_of(tmp_path, TARGET.name)
    path.write_bytes(path.read_bytes() + b'{"format":1,"workl')  # the trial in flight
    second = Bench()
    run = search(tmp_path, second)
    assert run.measured == 3
    run.run(8, None, lambda _: None)
    assert len(second.measured) == 5
    assert not set(second.measured) & set(first.measured[:3])
    assert len(on_disk(tmp_path)) == 8

    third = Bench()
    search(tmp_path, third).run(8, None, lambda _: None)
    assert third.measured == []


def test_no_minutes_means_no_more_trials(tmp_path):
    search(tmp_path, Bench()).run(1, None, lambda _: None)
    bench = Bench()
    search(tmp_path, bench).run(100, 0.0, lambda _: None)
    assert bench.measured == []


def test_a_space_without_a_choice_is_refused(tmp_path):
    with pytest.raises(CodegenError, match="no choice of knobs meets the constraints of linear"):
        search(tmp_path, Bench(), mr=8, nr=32).run(1, None, lambda _: None)


def test_the_winner_is_measured_again_gets_its_plan_and_is_shipped(tmp_path):
    bench = Bench()
    run = search(tmp_path, bench)
    run.run(8, None, lambda _: None)
    best = run.best
    crowned = run.crown()
    assert len(bench.measured) == 8 + tune.FINALISTS
    assert bench.planned == [crowned.knobs]
    assert crowned.knobs["mr"] == best.knobs["mr"]
    assert crowned.plan == "0444444444"
    assert on_disk(tmp_path)[-1] == crowned == run.best

    shipped = tmp_path / "shipped"
    other = replace(crowned, workload="linear(float32;M=*,N=9,K=9)", trial=77)
    old = replace(crowned, trial=78)
    store.rewrite(store.file_of(shipped, TARGET.name), [old, other])
    assert tune.ship(tmp_path, shipped) == [crowned]
    kept = store.read(store.file_of(shipped, TARGET.name), strict=True)
    assert kept == [crowned, other]
    kernel = selection.kernel(WORKLOAD, TARGET, crowned)
    assert kernel.plan == [0] + [4] * 9
    assert kernel.about["record"]["seconds"] == crowned.seconds
    assert kernel.knobs == crowned.knobs


def test_a_search_that_found_nothing_new_keeps_its_winner(tmp_path):
    run = search(tmp_path, Bench())
    run.run(3, None, lambda _: None)
    crowned = run.crown()
    bench = Bench()
    again = search(tmp_path, bench)
    again.run(3, None, lambda _: None)
    assert again.crown() is None
    assert again.best == crowned
    assert bench.measured == []


def test_records_of_another_space_are_left_alone(tmp_path):
    run = search(tmp_path, Bench())
    run.run(1, None, lambda _: None)
    stranger = replace(run.records[0], knobs={"tile": 3}, trial=9)
    store.append(store.file_of(tmp_path, TARGET.name), stranger)
    assert search(tmp_path, Bench()).measured == 1
    with pytest.raises(CodegenError, match=r"not usable: unknown knob 'tile'"):
        selection.kernel(WORKLOAD, TARGET, stranger)


def test_a_record_whose_plan_has_another_size_is_no_kernel(tmp_path):
    run = search(tmp_path, Bench())
    run.run(1, None, lambda _: None)
    with pytest.raises(CodegenError, match="a plan of 3 size buckets, not 10"):
        selection.kernel(WORKLOAD, TARGET, replace(run.records[0], plan="444"))


def test_a_search_stops_when_patience_ends(tmp_path):
    bench = Bench()
    run = search(tmp_path, bench)
    run.patience = Patience(3, 1e9)
    run.run(100, None, lambda _: None)
    assert len(bench.measured) == 4


def test_a_clash_is_told(tmp_path):
    with pytest.raises(CodegenError, match=r"registers of 8 floats.*<= 128"):
        search(tmp_path, Bench(), mr=8, nr=32).run(1, None, lambda _: None)


@pytest.mark.parametrize("strategy", ["constrained-genetic", "genetic", "annealing", "qlearning", "random"])
@pytest.mark.parametrize("prune", [None, NearBad()])
def test_every_strategy_drives_a_search(tmp_path, strategy, prune):
    bench = Bench()
    run = search(tmp_path, bench, 5, strategy)
    run.prune = prune
    run.run(24, None, lambda _: None)
    assert len(set(bench.measured)) == 24
    assert {r.strategy for r in run.records} == {strategy}


def test_a_step_measures_so_many_and_records_each_before_the_next(tmp_path):
    bench = Bench()
    run = search(tmp_path, bench)
    for count, record in enumerate(run.step(11), 1):
        assert on_disk(tmp_path)[-1] == record
        assert len(bench.measured) == len(on_disk(tmp_path)) == count
    assert run.measured == 11
    assert sum(bench.batches) == 11
    assert max(bench.batches) == 8  # as many as the random strategy likes to propose at once
    assert list(run.step(0)) == []


@pytest.mark.parametrize(
    ("strategy", "batches"), [("annealing", [8, 1, 1, 1, 1]), ("qlearning", [8, 1, 1, 1, 1]), ("genetic", [8, 4])]
)
def test_a_batch_is_what_a_strategy_can_propose_before_it_sees_results(tmp_path, strategy, batches):
    bench = Bench()
    run = search(tmp_path, bench, strategy=strategy)
    assert len(list(run.step(12))) == 12
    assert bench.batches == batches


def test_a_search_that_is_killed_within_a_batch_keeps_what_was_measured(tmp_path):
    bench = Bench({3: KeyboardInterrupt})
    with pytest.raises(KeyboardInterrupt):
        list(search(tmp_path, bench).step(8))
    assert bench.batches == [8]
    assert [identity(r.knobs) for r in on_disk(tmp_path)] == bench.measured[:2]


def test_what_was_measured_elsewhere_on_this_machine_is_not_measured_again(tmp_path):
    first = Bench()
    earlier = search(tmp_path / "earlier", first)
    earlier.run(6, None, lambda _: None)
    abroad = [replace(r, machine={**MACHINE, "cpu": "Another CPU"}) for r in earlier.records]
    other = [replace(r, space="derived") for r in earlier.records]
    store.rewrite(tmp_path / "abroad.jsonl", abroad + other)

    bench = Bench()
    run = search(tmp_path, bench)
    run.elsewhere = [tmp_path / "abroad.jsonl"]
    run.__post_init__()
    assert run.measured == 0

    run.elsewhere = [tmp_path / "abroad.jsonl", earlier.path, tmp_path / "missing.jsonl", run.path]
    run.__post_init__()
    assert run.measured == 6
    assert run.best == earlier.best
    run.run(9, None, lambda _: None)
    assert len(bench.measured) == 3
    assert not set(bench.measured) & set(first.measured)
    assert len(on_disk(tmp_path)) == 3


# What leaves 50 choices.
FIXED = {
    "mr": 6,
    "nr": 16,
    "kc": 256,
    "chain": 128,
    "nc": 256,
    "mc": 48,
    "copy_a": 1,
    "skinny_rows": 14,
    "wide_step": 8,
}


def test_an_exhaustive_search_with_pruning_tries_what_it_put_off_in_the_end(tmp_path):
    class Cliff(Bench):
        def measure(self, choice, rounds=1):
            good = super().measure(choice, rounds)
            return Outcome("failed", "too far ahead") if choice["prefetch"] == 32 else good

    def order(directory: Path, prune: NearBad | None) -> list[bool]:
        bench = Cliff()
        run = search(directory, bench, strategy="exhaustive", **FIXED)
        run.prune = prune
        run.run(1000, None, lambda _: None)
        assert len(set(bench.measured)) == len(bench.measured) == 50
        return [dict(name)["prefetch"] == 32 for name in bench.measured]

    plain, pruned = order(tmp_path / "plain", None), order(tmp_path / "pruned", NearBad())
    assert sum(plain) == sum(pruned)
    assert sum(i for i, bad in enumerate(pruned) if bad) > sum(i for i, bad in enumerate(plain) if bad)
