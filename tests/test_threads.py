"""The same bits whatever the number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import called, layouts, matrix, randn, seeds

THREADS = (1, 2, 5)


def assert_same_bits(function: Callable[[], Tensor]) -> None:
    results = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        results.append(called("force", function))
        assert torch.get_num_threads() == threads
    for result in results[1:]:
        assert torch.equal(result, results[0])


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 500), st.integers(1, 500), layouts, layouts, seeds)
def test_mm(m: int, n: int, k: int, layout_a: str, layout_b: str, seed: int) -> None:
    a, b = matrix(m, k, layout_a, seed), matrix(k, n, layout_b, seed + 1)
    assert_same_bits(lambda: tvmops.mm(a, b))


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1500, 900), (2, 700, 2000), (5, 1001, 801), (14, 333, 1000), (29, 640, 640), (1000, 33, 130), (400, 1, 900)],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_few_rows_or_columns(m: int, n: int, k: int, transposed: bool) -> None:
    a, b = randn(m, k), randn(n, k, seed=1).t() if transposed else randn(k, n, seed=1)
    assert_same_bits(lambda: tvmops.mm(a, b))
    assert_same_bits(lambda: tvmops.mm(a.t().contiguous().t(), b))


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7])
def test_bmm(batch: int) -> None:
    a, b = randn(batch, 90, 200), randn(batch, 200, 70, seed=1)
    assert_same_bits(lambda: tvmops.bmm(a, b))
    assert_same_bits(lambda: tvmops.matmul(a, b[0]))
    assert_same_bits(lambda: tvmops.matmul(a[:, None], b[None]))


@pytest.mark.parametrize("prepack", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 2000, 800), (8, 1025, 1000), (33, 700, 500), (250, 300, 400)])
def test_linear(m: int, n: int, k: int, prepack: bool) -> None:
    x, w, bias, residual = randn(m, k), randn(n, k, seed=1), randn(n, seed=2), randn(m, n, seed=3)
    assert_same_bits(lambda: tvmops.linear(x, w, bias, "gelu", residual, prepack=prepack))
    assert_same_bits(lambda: tvmops.linear(x, w.clone(), bias, "silu", prepack=prepack))  # packed by these threads


def test_mv_and_addmm() -> None:
    a, v, start, b = randn(1500, 700), randn(700, seed=1), randn(90, seed=2), randn(700, 90, seed=3)
    assert_same_bits(lambda: tvmops.mv(a, v))
    assert_same_bits(lambda: tvmops.addmm(start, a, b, beta=0.3, alpha=1.7))
