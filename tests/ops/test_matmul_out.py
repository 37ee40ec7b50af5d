"""matmul, mm, bmm, mv, addmm with out=: of the right shape or another, overlapping, strided, as torch has it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.ops.test_matmul_fallback import OPERANDS, operators, pair
from tests.support import (
    MODES,
    assert_accurate,
    assert_same,
    assert_same_error,
    called,
    layouts,
    matrix,
    randn,
    sizes,
    summation_bound,
)


@operators
def test_out(name: str, mode: str) -> None:
    ours, _ = pair(name)
    operands = OPERANDS[name]()
    expected = called(mode, ours, *operands)
    out = torch.full_like(expected, float("nan"))
    version = out._version
    assert called(mode, ours, *operands, out=out) is out
    assert_same(out, expected)
    assert out._version > version


@given(sizes, sizes, sizes, layouts, layouts, st.sampled_from(MODES))
def test_out_is_a_view(m: int, n: int, k: int, layout: str, layout_out: str, mode: str) -> None:
    """Only the elements of the view are written."""
    if "for all" in layout_out:
        layout_out = "rows of a wider matrix"
    a, b, out = matrix(m, k, layout, 1), matrix(k, n, "row-major", 2), matrix(m, n, layout_out, 3)
    whole = out._base if out._base is not None else out
    before = whole.clone()
    with tvmops.mode(mode):
        tvmops.mm(a, b, out=out)
    exact = a.double(), b.double()
    assert_accurate(out, a @ b, exact[0] @ exact[1], summation_bound(k, exact[0].abs() @ exact[1].abs()))
    out.copy_(before.as_strided(out.shape, out.stride(), out.storage_offset()))
    assert_same(whole, before)


@operators
def test_out_of_another_shape_is_resized_with_a_warning(name: str) -> None:
    ours, theirs = pair(name)
    operands = OPERANDS[name]()
    said = []
    for call in (ours, theirs):
        out = torch.ones(2, 2)
        with warnings.catch_warnings(record=True) as caught, tvmops.mode("off"):
            warnings.simplefilter("always")
            assert call(*operands, out=out) is out
        said.append([str(w.message).splitlines()[0] for w in caught])
        assert out.shape == theirs(*operands).shape
        assert_same(out, theirs(*operands))
    assert said[0] == said[1] != []
    empty = torch.empty(0)
    with warnings.catch_warnings(), tvmops.mode("force"):
        warnings.simplefilter("error")
        torch.testing.assert_close(ours(*operands, out=empty), theirs(*operands))


def memory(*shape: int) -> tuple[Tensor, Tensor]:
    """A tensor, and one of the same shape that overlaps it."""
    block = randn(shape[0] + 1, *shape[1:])
    return block[:-1], block[1:]


OVERLAPPING: dict[str, tuple[str, Callable[[], tuple[tuple[Tensor, ...], Tensor]]]] = {
    "first": ("mm", lambda: ((x := randn(40, 40), randn(40, 40, seed=1)), x)),
    "second": ("mm", lambda: ((randn(40, 40, seed=1), x := randn(40, 40)), x)),
    "second, transposed": ("mm", lambda: ((randn(40, 40, seed=1), x := randn(40, 40)), x.t())),
    "both": ("mm", lambda: ((x := randn(40, 40), x), x)),
    "a part": ("mm", lambda: (((x := memory(200, 60))[0], randn(60, 60, seed=1)), x[1])),
    "a part of the second": ("mm", lambda: ((randn(60, 60, seed=1), (x := memory(60, 90))[0]), x[1])),
    "matmul": ("matmul", lambda: (((x := memory(200, 60))[0], randn(60, 60, seed=1)), x[1])),
    "bmm": ("bmm", lambda: (((x := memory(5, 30, 30))[0], randn(5, 30, 30, seed=1)), x[1])),
    "mv": ("mv", lambda: ((randn(70, 70, seed=1), (x := memory(70))[0]), x[1])),
    "addmm": ("addmm", lambda: ((randn(60, seed=2), (x := memory(200, 60))[0], randn(60, 60, seed=1)), x[1])),
    "addmm, input": ("addmm", lambda: (((x := memory(50, 60))[0], randn(50, 40), randn(40, 60, seed=1)), x[1])),
}


@pytest.mark.parametrize("case", OVERLAPPING)
@pytest.mark.parametrize("threads", [1, 2])
def test_out_that_overlaps_an_operand(case: str, threads: int, mode: str) -> None:
    """As if it did not. What torch itself computes depends on who writes first."""
    name, make = OVERLAPPING[case]
    operands, out = make()
    torch.set_num_threads(threads)
    expected = pair(name)[1](*(x.clone() for x in operands))
    with tvmops.mode(mode):
        assert pair(name)[0](*operands, out=out) is out
    torch.testing.assert_close(out, expected)


def test_addmm_into_its_input(mode: str) -> None:
    start, a, b = randn(30, 33), randn(30, 20, seed=1), randn(20, 33, seed=2)
    expected = torch.addmm(start, a, b, beta=0.5)
    with tvmops.mode(mode):
        assert tvmops.addmm(start, a, b, beta=0.5, out=start) is start
    torch.testing.assert_close(start, expected)


@pytest.mark.parametrize("name", [name for name in OPERANDS if name != "mv"])  # torch lets mv write what comes last
def test_out_with_overlapping_elements_is_refused(name: str) -> None:
    ours, theirs = pair(name)
    operands = OPERANDS[name]()
    out = torch.zeros(1).expand(theirs(*operands).shape)
    assert_same_error(lambda: ours(*operands, out=out), lambda: theirs(*operands, out=out))


@operators
def test_out_of_another_dtype_is_refused(name: str) -> None:
    ours, theirs = pair(name)
    operands = OPERANDS[name]()
    out = theirs(*operands).double()
    assert_same_error(lambda: ours(*operands, out=out), lambda: theirs(*operands, out=out))


@operators
def test_out_has_no_gradient(name: str) -> None:
    ours, theirs = pair(name)
    operands = OPERANDS[name]()
    out = theirs(*operands)
    wanted = [x.requires_grad_() for x in operands]
    assert_same_error(lambda: ours(*wanted, out=out), lambda: theirs(*wanted, out=out))
    with torch.no_grad():
        torch.testing.assert_close(ours(*wanted, out=torch.empty(0)), theirs(*wanted))


@operators
def test_out_made_in_inference_mode_is_frozen_outside(name: str) -> None:
    ours, theirs = pair(name)
    operands = OPERANDS[name]()
    with torch.inference_mode():
        out = theirs(*operands)
        inside = torch.zeros_like(out)
        torch.testing.assert_close(ours(*operands, out=inside), out)
    assert_same_error(lambda: ours(*operands, out=out), lambda: theirs(*operands, out=out))
