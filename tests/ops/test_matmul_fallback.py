"""matmul, mm, bmm, mv, addmm: out=, what no kernel covers, and errors, all as torch has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tvmops
from tests.support import (
    MODES,
    assert_accurate,
    assert_same,
    assert_same_error,
    assert_same_outcome,
    by_aten,
    called,
    layouts,
    matrix,
    randn,
    sizes,
    summation_bound,
)

# Operator, and operands that a kernel serves, by name.
OPERANDS: dict[str, Callable[[], tuple[Tensor, ...]]] = {
    "matmul": lambda: (randn(3, 20), randn(20, 33, seed=1)),
    "mm": lambda: (randn(17, 20), randn(20, 33, seed=1)),
    "bmm": lambda: (randn(3, 17, 20), randn(3, 20, 33, seed=1)),
    "mv": lambda: (randn(17, 20), randn(20, seed=1)),
    "addmm": lambda: (randn(33, seed=2), randn(17, 20), randn(20, 33, seed=1)),
}
operators = pytest.mark.parametrize("name", OPERANDS)
Call = Callable[..., Tensor]


def pair(name: str) -> tuple[Call, Call]:
    return getattr(tvmops, name), getattr(torch, name)


# --- out= ---


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


# --- What no kernel covers ---


@operators
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.complex64], ids=str
)
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    ours, theirs = pair(name)
    operands = [x.to(dtype) for x in OPERANDS[name]()]
    assert_same(by_aten(ours, *operands), theirs(*operands))


@operators
def test_meta(name: str) -> None:
    ours, theirs = pair(name)
    operands = [x.to("meta") for x in OPERANDS[name]()]
    value, expected = ours(*operands), theirs(*operands)
    assert value.is_meta
    assert (value.shape, value.dtype, value.stride()) == (expected.shape, expected.dtype, expected.stride())


@pytest.mark.parametrize("name", ["matmul", "mm", "mv", "addmm"])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
def test_sparse(name: str, layout: torch.layout) -> None:
    ours, theirs = pair(name)
    operands = list(OPERANDS[name]())
    place = 1 if name == "addmm" else 0
    operands[place] = operands[place].relu().to_sparse(layout=layout)
    assert_same(by_aten(ours, *operands), theirs(*operands))


def test_lazy_conjugate_and_negative_views(mode: str) -> None:
    z = torch.complex(randn(20, 30), randn(20, 30, seed=1))
    negative, b = z.conj().imag, randn(30, 40, seed=2)
    assert negative.is_neg()
    with tvmops.mode(mode):
        torch.testing.assert_close(tvmops.mm(negative, b), negative.clone() @ b)
        torch.testing.assert_close(tvmops.mm(z.conj(), z.t()), z.conj() @ z.t())
        out = torch.zeros(20, 40, dtype=torch.complex64).conj().imag
        assert out.is_neg()
        torch.testing.assert_close(tvmops.mm(negative, b, out=out), negative.clone() @ b)


class Functional(torch.Tensor):
    """A subclass that counts the functions called on it."""

    calls: list[str]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls.append(str(func))
        return super().__torch_function__(func, types, args, kwargs or {})


class Wrapper(torch.Tensor):
    """A subclass that holds a tensor and doubles what every operator makes of it."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return 2 * func(*(a.inner if isinstance(a, Wrapper) else a for a in args), **(kwargs or {}))


@operators
def test_subclasses_see_the_call(name: str, mode: str) -> None:
    ours, theirs = pair(name)
    operands = OPERANDS[name]()
    expected = theirs(*operands)
    Functional.calls = []
    with tvmops.mode(mode):
        value = ours(operands[0].as_subclass(Functional), *operands[1:])
        assert type(value) is Functional
        assert any("tvmops" in call for call in Functional.calls)
        torch.testing.assert_close(value.as_subclass(torch.Tensor), expected)
        torch.testing.assert_close(ours(Wrapper(operands[0]), *operands[1:]), 2 * expected)


@operators
def test_modes_of_torch_see_the_call(name: str, mode: str) -> None:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    ours, _ = pair(name)
    operands = OPERANDS[name]()
    for watching in (Functions, Dispatch):
        seen.clear()
        with tvmops.mode(mode), watching():
            ours(*operands)
        assert any("tvmops" in call for call in seen), watching


def test_autocast_as_torch(mode: str) -> None:
    for name, make in OPERANDS.items():
        ours, theirs = pair(name)
        operands = make()
        with torch.autocast("cpu", dtype=torch.bfloat16), tvmops.mode(mode):
            value, expected = ours(*operands), theirs(*operands)
        assert value.dtype == expected.dtype, name
        torch.testing.assert_close(value, expected)


# --- Errors ---

WRONG: dict[str, list[tuple[Any, ...]]] = {
    "matmul": [
        (randn(3, 4), randn(5, 6)),
        (randn(2, 3, 4), randn(2, 5, 6)),
        (randn(2, 3, 4), randn(3, 4, 5)),
        (randn(3), randn(4)),
        (randn(3), randn(4, 5)),
        (randn(3, 4), randn(5)),
        (randn(), randn(3)),
        (randn(3, 4), randn()),
        (randn(2, 3, 4), randn(5)),
        (randn(3), randn(2, 4, 5)),
        (randn(3, 4), randn(4, 5).double()),
        (randn(2, 3, 4), randn(4, 5).int()),
        (randn(2, 3, 4), randn(2, 4, 5).half()),
        (randn(3, 4), randn(4).double()),
    ],
    "mm": [
        (randn(3, 4), randn(5, 6)),
        (randn(3), randn(3, 4)),
        (randn(3, 4), randn(4)),
        (randn(2, 3, 4), randn(4, 5)),
        (randn(3, 4), randn(4, 5).double()),
        (randn(3, 0), randn(1, 3)),
    ],
    "bmm": [
        (randn(2, 3, 4), randn(2, 5, 6)),
        (randn(2, 3, 4), randn(3, 4, 5)),
        (randn(3, 4), randn(4, 5)),
        (randn(2, 3, 4), randn(2, 4, 5).double()),
        (randn(1, 3, 4), randn(2, 4, 5)),
    ],
    "mv": [
        (randn(3, 4), randn(5)),
        (randn(3), randn(3)),
        (randn(3, 4), randn(4, 1)),
        (randn(3, 4), randn(4).double()),
    ],
    "addmm": [
        (randn(6), randn(3, 4), randn(5, 6)),
        (randn(5), randn(3, 4), randn(4, 6)),
        (randn(2, 6), randn(3, 4), randn(4, 6)),
        (randn(2, 3, 6), randn(3, 4), randn(4, 6)),
        (randn(6).double(), randn(3, 4), randn(4, 6)),
        (randn(6), randn(4), randn(4, 6)),
    ],
}


@pytest.mark.parametrize(("name", "case"), [(name, i) for name, cases in WRONG.items() for i in range(len(cases))])
def test_errors_are_those_of_torch(name: str, case: int, mode: str) -> None:
    ours, theirs = pair(name)
    operands = WRONG[name][case]
    with tvmops.mode(mode):
        assert_same_error(lambda: ours(*operands), lambda: theirs(*operands))
        assert_same_error(lambda: ours(*operands, out=torch.empty(0)), lambda: theirs(*operands, out=torch.empty(0)))
        for x in operands:
            if x.is_floating_point():
                x.requires_grad_()
        assert_same_error(lambda: ours(*operands), lambda: theirs(*operands))
        for x in operands:
            x.requires_grad_(False) if x.is_floating_point() else None


@operators
def test_not_a_tensor(name: str) -> None:
    ours, _ = pair(name)
    operands = OPERANDS[name]()
    for bad in (None, 3.0, "x", [1.0]):
        with pytest.raises((TypeError, RuntimeError)):
            ours(bad, *operands[1:])
    with pytest.raises(TypeError):
        ours(operands[0])


@operators
def test_devices_that_do_not_mix(name: str, mode: str) -> None:
    ours, theirs = pair(name)
    operands = list(OPERANDS[name]())
    operands[-1] = operands[-1].to("meta")
    with tvmops.mode(mode):
        # Where torch does not refuse (mm, 2.13), the values mean nothing.
        assert_same_outcome(lambda: ours(*operands).to("meta"), lambda: theirs(*operands).to("meta"))


def test_complex_factors_of_addmm() -> None:
    operands = OPERANDS["addmm"]()
    for factor in ({"beta": 1j}, {"alpha": 1j}, {"beta": 1e300}):
        assert_same_outcome(lambda f=factor: tvmops.addmm(*operands, **f), lambda f=factor: torch.addmm(*operands, **f))
