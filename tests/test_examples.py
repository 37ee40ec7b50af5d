"""The worked examples on schedules, at small sizes: right numbers, and what they say of loops and machine code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("tvm", reason="the examples schedule with TVM")

from examples import matmul_ladder, schedules, sigmoid

TARGET = schedules.native()


@pytest.fixture(scope="module")
def ladder():
    return {kernel.step.name: kernel for kernel in matmul_ladder.kernels(96, TARGET)}


@pytest.fixture(scope="module")
def sigmoids():
    return sigmoid.kernels(2048, TARGET)


def test_every_step_of_the_ladder_is_right(ladder):
    a, b = (torch.randn(96, 96, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = a.double().numpy() @ b.double().numpy()
    for kernel in ladder.values():
        c = torch.full((96, 96), float("nan"))
        kernel.bind(a, b, c)()
        assert schedules.relative_error(c.numpy(), exact) < 1e-6, kernel.step.name


def test_each_step_of_the_ladder_changes_what_it_says(ladder):
    seen = {name: kernel.evidence for name, kernel in ladder.items()}
    assert list(seen) == ["naive", "tiled", "vectorised", "parallel", "unrolled", "packed"]
    for name in ("naive", "tiled"):
        assert seen[name].loops == "serial"
    assert "T.grid(96, 96, 96)" in ladder["naive"].script
    assert "T.grid(3, 3, 3, 32, 32, 32)" in ladder["tiled"].script
    assert seen["vectorised"].loops == "1 vectorized"
    assert seen["vectorised"].vector_fma > 0 == seen["vectorised"].scalar_fma
    assert seen["parallel"].loops == "1 parallel, 1 vectorized"
    assert seen["unrolled"].unrolled > 0
    assert "local" in ladder["unrolled"].script
    assert "local" not in ladder["parallel"].script
    # The tile is a vector register for every row and vector, each with an FMA of its own.
    tile = matmul_ladder.Tile.of(TARGET)
    assert seen["unrolled"].vector_fma == tile.rows * tile.columns // tile.lanes
    assert seen["packed"].parallel == 2
    assert f"({96 // tile.columns}, 96, {tile.columns})" in ladder["packed"].script
    assert "B_global" not in ladder["unrolled"].script


def test_the_ladder_is_measured_checked_and_told():
    rows = matmul_ladder.measure(64, [1], rounds=2, seconds=0.0)
    assert [row.name for row in rows][-2:] == ["tuned", "torch.matmul"]
    assert len(rows) == 8
    assert all(row.error < matmul_ladder.TOLERANCE and row.seconds[1] > 0 for row in rows)
    changes, speeds = matmul_ladder.changes(rows, 64), matmul_ladder.speeds(rows, 64, [1], {1: 100.0})
    assert changes.row_count == speeds.row_count == 8
    assert list(speeds.columns[4].cells)[-1] == "1.000"
    told = schedules.markdown(speeds).splitlines()
    assert told[2] == "| step | 1 thread, ms | 1 thread, GFLOP/s | 1 thread, of peak | 1 thread, x torch |"
    assert told[3] == "| --- | ---: | ---: | ---: | ---: |"
    assert len(told) == 12
    assert told[-1].startswith("| torch.matmul | ")


@pytest.mark.parametrize("size", [0, -64, 48])
def test_sizes_that_tiles_do_not_divide_are_named(size):
    with pytest.raises(ValueError, match=f"^{size} is not a positive multiple of"):
        matmul_ladder.check_size(size, TARGET)
    with pytest.raises(ValueError, match=f"^{size} is not a positive multiple of"):
        sigmoid.check_size(size, TARGET)


def test_no_schedule_of_the_first_sigmoid_loses_the_scalar_calls(sigmoids):
    for kernel in sigmoids["te.exp"]:
        assert kernel.evidence.expf_calls > 0, kernel.step.name
        assert sigmoid.exponential_of(kernel)
    vectors = {kernel.step.name: kernel for kernel in sigmoids["te.exp"]}
    for width in (TARGET.lanes() // 2, TARGET.lanes(), 2 * TARGET.lanes()):
        kernel = vectors[f"vector {width}"]
        assert kernel.evidence.vectorized == 1
        assert kernel.evidence.expf_calls == width


def test_no_schedule_of_the_mended_sigmoid_has_any(sigmoids):
    assert [k.step.name for k in sigmoids["polynomial"]] == [k.step.name for k in sigmoids["te.exp"]]
    for kernel in sigmoids["polynomial"]:
        assert kernel.evidence.expf_calls == 0, kernel.step.name
        assert not sigmoid.exponential_of(kernel)
        assert kernel.evidence.vector_fma > 0, kernel.step.name


def test_every_sigmoid_is_right(sigmoids):
    x = torch.cat([torch.linspace(-80, 80, 2044), torch.tensor([0.0, -0.0, 1e-30, -1e-30])])
    for kernel in (k for group in sigmoids.values() for k in group):
        y = torch.full_like(x, float("nan"))
        kernel.bind(x, y)()
        assert sigmoid.ulp_error(y.numpy(), x.numpy()) < sigmoid.LARGEST_ULP, kernel.step.name
    assert sigmoid.ulp_error(np.float32([0.5]), np.float32([0.0])) == 0


def test_the_sigmoids_are_measured_and_told():
    rows = sigmoid.measure(2048, [1], rounds=2, seconds=0.0)
    assert [row.definition for row in rows][-2:] == ["tvmops.sigmoid", "torch.sigmoid"]
    assert len(rows) == 14
    assert all(row.ulp < sigmoid.LARGEST_ULP and row.seconds[1] > 0 for row in rows)
    shown = sigmoid.table(rows, 2048, [1])
    assert shown.row_count == 14
    assert set(list(shown.columns[2].cells)[6:12]) == {"0"}
    assert 0 < sigmoid.best(rows, "polynomial", 1) <= min(r.seconds[1] for r in rows[6:12])
