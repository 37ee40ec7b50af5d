"""The tables that compare searches."""

from __future__ import annotations

from typing import Any

from benchmarks.searches import series, table

KEY = "softmax(float32;M=128,N=1024)"


def run(name: str, seed: int, times: list[float | None], wall: float) -> dict[str, Any]:
    trials = [
        {"knobs": {"k": i}, "status": "ok" if t else "failed", "ratio": 1 / t if t else 0.0, "seconds": t}
        for i, t in enumerate(times)
    ]
    best = {"best": {"k": 99}} if name == series.TVM else {}
    space = "metaschedule" if name == series.TVM else series.SPACE
    return {"workload": KEY, "series": name, "seed": seed, "space": space, "wall": wall, "trials": trials, **best}


def final(space: str, k: int, seconds: float) -> dict[str, Any]:
    times = {"seconds": seconds, "ratio": 3e-5 / seconds, "first": 1 / seconds}
    return {"space": space, "knobs": {"k": k}, **times, "error": 1.0}


def test_the_best_of_so_many_trials():
    one = run("random", 0, [3.0, None, 2.0, 1.0], 4.0)
    assert series.best_of(one, 3) == [{"k": 2}, {"k": 0}]
    assert series.best_of(one, 64) == [{"k": 3}, {"k": 2}, {"k": 0}]
    assert series.best_of(run("random", 0, [None], 1.0), 64) == []
    assert series.best_of(run(series.TVM, 0, [3.0], 1.0), 16) == [{"k": 99}]


def test_tables_have_ratios_and_their_means():
    times: list[float | None] = [2e-5] * 16 + [1e-5] * 48
    lines = [
        run(series.TVM, 0, [3e-5] * 64, 128.0),
        run(table.OURS, 0, times, 12.8),
        run("random", 0, [2e-5] * 64, 12.8),
        {
            "workload": KEY,
            "finals": [final("metaschedule", 99, 3e-5), final("derived", 0, 2e-5), final("derived", 16, 1e-5)],
        },
        {"workload": KEY, "valid": {"solved": {"ok": 4}, "blind": {"ok": 1, "failed": 3}, "kept": 1}},
    ]
    text = table.markdown(lines)
    name = "softmax(M=128,N=1024)"
    assert f"| {name} | 64 | 30.0 | 10.0 | 3.00 | 1.50 | 2.00 | 0.20 | 10.00 | 3.00 |" in text
    assert "| geometric mean |  |  |  | 3.00 | 1.50 |  |  | 10.00 | 3.00 |" in text
    assert f"| {name} | 0.50 | 0.50 |" in text
    assert f"| {name} | 0.50 | 1.00 |" in text
    assert f"| {name} | 100% | 25% | 25% |" in text
