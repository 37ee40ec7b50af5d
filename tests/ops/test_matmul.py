"""matmul, mm, bmm, mv, addmm: values, in every shape and layout, against float64 and ATen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import (
    LAYOUTS,
    MODES,
    assert_accurate,
    assert_same,
    assert_same_nonfinite,
    called,
    layouts,
    matrix,
    observed,
    randn,
    seeds,
    sizes,
    sizes_or_zero,
    summation_bound,
)

modes = st.sampled_from(MODES)

# Beyond the blocks of every kernel in K, N and M, and beyond the few rows that have loops of their own.
LARGE = [
    (1, 1, 3000),
    (1, 4100, 770),
    (3, 2500, 1100),
    (4, 130, 1537),
    (13, 1100, 801),
    (27, 333, 1153),
    (29, 65, 2999),
    (127, 769, 1001),
    (130, 1057, 389),
    (300, 47, 1200),
    (450, 33, 130),
    (2000, 1, 500),
    (500, 2, 640),
]


def check(mode: str, function: Callable[..., Tensor], theirs: Callable[..., Tensor], *operands: Tensor) -> None:
    value = called(mode, function, *operands)
    exact = [x.double() for x in operands]
    bound = summation_bound(operands[0].size(-1), theirs(*(x.abs() for x in exact)))
    assert_accurate(value, theirs(*operands), theirs(*exact), bound)


@given(sizes, sizes, sizes, layouts, layouts, seeds, modes)
def test_mm(m: int, n: int, k: int, layout_a: str, layout_b: str, seed: int, mode: str) -> None:
    check(mode, tvmops.mm, torch.mm, matrix(m, k, layout_a, seed), matrix(k, n, layout_b, seed + 1))


@pytest.mark.parametrize(("m", "n", "k"), LARGE)
@pytest.mark.parametrize("layout_b", ["row-major", "transposed", "steps in both dimensions"])
@pytest.mark.parametrize("layout_a", ["row-major", "transposed"])
def test_mm_beyond_blocks(m: int, n: int, k: int, layout_a: str, layout_b: str) -> None:
    check("force", tvmops.mm, torch.mm, matrix(m, k, layout_a, 1), matrix(k, n, layout_b, 2))


@pytest.mark.parametrize("layout_b", LAYOUTS)
@pytest.mark.parametrize("layout_a", LAYOUTS)
@pytest.mark.parametrize(("m", "n", "k"), [(2, 33, 40), (16, 17, 31), (61, 47, 90)])
def test_every_pair_of_layouts(m: int, n: int, k: int, layout_a: str, layout_b: str) -> None:
    check("force", tvmops.mm, torch.mm, matrix(m, k, layout_a, 1), matrix(k, n, layout_b, 2))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 128, 130])
@pytest.mark.parametrize("layout_b", ["row-major", "transposed"])
def test_every_number_of_rows(n: int, layout_b: str) -> None:
    """One micro-kernel each for what remains of M and N."""
    for m in range(1, 36):
        check("force", tvmops.mm, torch.mm, matrix(m, 19, "row-major", m), matrix(19, n, layout_b, n))


@given(sizes_or_zero, sizes_or_zero, sizes_or_zero, modes)
def test_nothing_to_multiply(m: int, n: int, k: int, mode: str) -> None:
    assume(0 in (m, n, k))
    a, b = randn(m, k), randn(k, n)
    with tvmops.mode(mode):
        assert_same(tvmops.mm(a, b), a @ b)
        assert_same(tvmops.matmul(a, b), a @ b)
        assert_same(tvmops.bmm(a.expand(3, m, k), b.expand(3, k, n)), (a @ b).expand(3, m, n))
        assert_same(tvmops.addmm(torch.ones(n), a, b), torch.addmm(torch.ones(n), a, b))
        if 0 in (m, k):
            assert_same(tvmops.mv(a, torch.ones(k)), torch.mv(a, torch.ones(k)))


@given(st.integers(1, 7), sizes, sizes, st.integers(1, 90), layouts, layouts, st.booleans(), seeds, modes)
def test_bmm(
    batch: int, m: int, n: int, k: int, layout_a: str, layout_b: str, shared: bool, seed: int, mode: str
) -> None:
    a = torch.stack([matrix(m, k, layout_a, seed + i) for i in range(batch)])
    b = matrix(k, n, layout_b, seed)
    b = b.expand(batch, k, n) if shared else torch.stack([b + i for i in range(batch)])
    check(mode, tvmops.bmm, torch.bmm, a, b)
    check(mode, tvmops.bmm, torch.bmm, a.transpose(1, 2).contiguous().transpose(1, 2), b)
    check(mode, tvmops.bmm, torch.bmm, a.movedim(0, 2).contiguous().movedim(2, 0), b)


def test_empty_batch(mode: str) -> None:
    a, b = torch.empty(0, 3, 4), torch.empty(0, 4, 5)
    with tvmops.mode(mode):
        assert tvmops.bmm(a, b).shape == (0, 3, 5)
        assert tvmops.matmul(a, torch.ones(4, 5)).shape == (0, 3, 5)
        assert tvmops.matmul(torch.empty(2, 0, 3, 4), torch.ones(1, 4)[0]).shape == (2, 0, 3)


@given(sizes, st.integers(1, 700), layouts, st.integers(0, 3), seeds, modes)
def test_mv(m: int, k: int, layout: str, step: int, seed: int, mode: str) -> None:
    v = randn(1, seed=seed).expand(k) if step == 0 else randn(k * step, seed=seed)[::step]
    check(mode, tvmops.mv, torch.mv, matrix(m, k, layout, seed + 1), v)


def batches(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.sampled_from([1, 2, 3]), min_size=0, max_size=count).map(tuple)


@st.composite
def matmul_operands(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Operands of any rank from 1 to 5 whose leading dimensions broadcast, dense, strided or expanded."""
    m, n, k = draw(sizes), draw(sizes), draw(st.integers(1, 60))
    whole = draw(batches(3))
    operands = []
    for i, tail in enumerate([(m, k), (k, n)]):
        rank = draw(st.integers(-1, len(whole)))  # -1: a vector
        if rank < 0:
            shape: tuple[int, ...] = (k,)
        else:
            lead = whole[len(whole) - rank :]
            shape = (*(draw(st.sampled_from([size, 1])) for size in lead), *tail)
        kind = draw(st.sampled_from(["dense", "steps", "permuted", "expanded", "narrowed"]))
        seed = draw(seeds) + i
        if kind == "steps":
            x = randn(*(2 * s for s in shape), seed=seed)[tuple(slice(None, None, 2) for _ in shape)]
        elif kind == "permuted":
            order = draw(st.permutations(range(len(shape))))
            x = randn(*(shape[d] for d in order), seed=seed).permute([order.index(d) for d in range(len(shape))])
        elif kind == "expanded":
            x = randn(*(1 if draw(st.booleans()) else s for s in shape), seed=seed).expand(shape)
        elif kind == "narrowed":
            x = randn(*(s + 2 for s in shape), seed=seed)[tuple(slice(1, 1 + s) for s in shape)]
        else:
            x = randn(*shape, seed=seed)
        operands.append(x)
    return operands[0], operands[1]


@given(matmul_operands(), modes)
def test_matmul_of_any_rank(operands: tuple[Tensor, Tensor], mode: str) -> None:
    a, b = operands
    if a.dim() == b.dim() == 1:  # a dot product is ATen's
        mode = "auto"
    check(mode, tvmops.matmul, torch.matmul, a, b)
    check(mode, torch.ops.tvmops.matmul, torch.matmul, a, b)


def test_matmul_folds_a_batch_only_where_memory_does(mode: str) -> None:
    """A dimension of size one between the batch and the rows has a stride that says nothing."""
    b = randn(4, 5, seed=1)
    for a in (
        randn(2, 1, 15, 4)[:, :, :3],
        randn(2, 3, 4).as_strided((2, 1, 3, 4), (12, 999, 4, 1)),
        randn(6, 1, 4)[::2],
        randn(3, 5, 4).transpose(0, 1),
    ):
        check(mode, tvmops.matmul, torch.matmul, a, b)


@st.composite
def addmm_inputs(draw: st.DrawFn, m: int, n: int) -> Tensor:
    seed = draw(seeds)
    kind = draw(st.sampled_from(["scalar", "n", "1n", "m1", "11", "mn", "mn^T", "steps", "expanded"]))
    shapes: dict[str, tuple[int, ...]] = {"scalar": (), "n": (n,), "1n": (1, n), "m1": (m, 1), "11": (1, 1)}
    if kind in shapes:
        return randn(*shapes[kind], seed=seed)
    if kind == "expanded":
        return randn(n, seed=seed).expand(m, n)
    return matrix(m, n, {"mn": "row-major", "mn^T": "transposed", "steps": "steps in both dimensions"}[kind], seed)


factors = st.sampled_from([0, 1, -1, 2, 0.5, -1.25, True])


@given(st.data(), sizes, sizes, st.integers(1, 120), layouts, layouts, factors, factors, seeds, modes)
def test_addmm(
    data: st.DataObject, m: int, n: int, k: int, layout_a: str, layout_b: str, beta: float, alpha: float, seed: int,
    mode: str,
) -> None:  # fmt: skip
    start = data.draw(addmm_inputs(m, n))
    operands = (start, matrix(m, k, layout_a, seed), matrix(k, n, layout_b, seed + 1))
    with tvmops.mode(mode):
        value, decisions = observed(tvmops.addmm, *operands, beta=beta, alpha=alpha)
    exact = [x.double() for x in operands]
    reference = torch.addmm(*exact, beta=beta, alpha=alpha)
    magnitude = torch.addmm(*(x.abs() for x in exact), beta=abs(beta), alpha=abs(alpha))
    expected = torch.addmm(*operands, beta=beta, alpha=alpha)
    assert_accurate(value, expected, reference, summation_bound(k, magnitude))
    readable = start.dim() > 0 and start.size(-1) == n and (n == 1 or start.stride(-1) == 1)
    if mode == "force" and alpha and (readable or not beta):
        assert all(d.kernel for d in decisions), str(decisions)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_addmm_does_not_read_an_input_times_zero(bad: float, mode: str) -> None:
    a, b = randn(17, 20), randn(20, 33, seed=1)
    value = called(mode, tvmops.addmm, torch.full((17, 33), bad), a, b, beta=0)
    assert_same(value, called(mode, tvmops.mm, a, b))
    ignored = torch.addmm(torch.ones(33), a * bad, b, alpha=0)
    with tvmops.mode(mode):
        assert_same(tvmops.addmm(torch.ones(33), a * bad, b, alpha=0), ignored)


nonfinite = st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0])


@given(sizes, sizes, st.integers(1, 80), layouts, layouts, seeds, st.lists(nonfinite, min_size=1, max_size=4), modes)
def test_nan_and_infinity_go_where_they_belong(
    m: int, n: int, k: int, layout_a: str, layout_b: str, seed: int, values: list[float], mode: str
) -> None:
    # Of one sign, so that float32 meets no infinity by rounding that float64 does not.
    a, b = matrix(m, k, layout_a, seed).clone().abs(), matrix(k, n, layout_b, seed + 1).clone().abs()
    for i, value in enumerate(values):
        target = (a, b)[i % 2]
        target[seed % target.size(0), (seed + i) % target.size(1)] = value
    a, b = (a.t().contiguous().t() if seed % 2 else a), (b.t().contiguous().t() if seed % 3 else b)
    value = called(mode, tvmops.mm, a, b)
    reference = a.double() @ b.double()
    assert_same_nonfinite(value, reference.float())
    bias = torch.full((n,), 1.0)
    assert_same_nonfinite(called(mode, tvmops.addmm, bias, a, b), reference.float() + bias)


@pytest.mark.parametrize("k", [1, 2, 40, 800])
def test_sums_that_overflow(k: int, mode: str) -> None:
    a = torch.full((20, k), 2e38)
    for sign in (1.0, -1.0):
        value = called(mode, tvmops.mm, a, torch.full((k, 40), sign))
        assert_same(value, (a.double() @ torch.full((k, 40), sign).double()).float())


def test_operands_are_left_alone(mode: str) -> None:
    a, b = randn(50, 60), randn(60, 70, seed=1)
    before = a.clone(), b.clone()
    called(mode, tvmops.matmul, a, b)
    assert_same(a, before[0])
    assert_same(b, before[1])


def test_the_same_again_gives_the_same_bits(mode: str) -> None:
    a, b = randn(123, 777), randn(777, 99, seed=1)
    first = called(mode, tvmops.mm, a, b)
    assert all(torch.equal(called(mode, tvmops.mm, a, b), first) for _ in range(5))


def test_an_operand_times_itself(mode: str) -> None:
    a = randn(70, 70)
    check(mode, lambda x: tvmops.mm(x, x), lambda x: torch.mm(x, x), a)
    check(mode, lambda x: tvmops.mm(x, x.t()), lambda x: torch.mm(x, x.t()), randn(40, 90))
