"""matmul, mm, bmm, mv, addmm: what no kernel covers, and errors, as torch has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tvmops
from tests.support import (
    assert_same,
    assert_same_error,
    assert_same_outcome,
    by_aten,
    randn,
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
