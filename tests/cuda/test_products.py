"""linear, mm, bmm and addmm under the CUDA key: what a launch is given, and what is left to ATen."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tvmops
from tests.support import ACTIVATIONS, randn

from .gpu import HALF, OPS, Pack, assert_rounded, by_aten, by_kernel, on_gpu

GENERAL = "matmul(float16;M=*,N=*,K=*;a=n,b=t)@sm_80"


def half(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    return randn(*shape, seed=seed, dtype=dtype)


def activated(x: Tensor, name: str | None) -> Tensor:
    functions: dict[str | None, Callable[[Tensor], Tensor]] = {
        None: lambda x: x,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "silu": torch.nn.functional.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    return functions[name](x)


@pytest.fixture(autouse=True)
def _loaded(pack: Pack) -> None:
    """Every test here calls the kernels of the pack."""


def check_product(value: Tensor, a: Tensor, b: Tensor) -> None:
    a, b = a.double(), b.double()
    assert_rounded(value, a @ b, a.abs() @ b.abs(), a.shape[-1])


def check_linear(
    value: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None
) -> None:
    x, w = x.double(), w.double()
    exact, magnitude = x @ w.t(), x.abs() @ w.abs().t()
    if bias is not None:
        exact, magnitude = exact + bias.double(), magnitude + bias.double().abs()
    exact = activated(exact, activation)
    if residual is not None:
        exact = exact + residual.double()
    assert_rounded(value, exact, magnitude, x.shape[-1])


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_linear(pack: Pack, dtype: torch.dtype, activation: str | None, biased: bool, added: bool) -> None:
    x, w = half(3, 11, 40, dtype=dtype), half(24, 40, seed=1, dtype=dtype)
    bias = half(24, seed=2, dtype=dtype) if biased else None
    residual = half(3, 11, 24, seed=3, dtype=dtype) if added else None
    y = by_kernel("linear", x, w, bias, activation, residual)
    check_linear(y, x, w, bias, activation, residual)
    assert y.dtype == dtype
    number = [None, "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"].index(activation)
    assert pack.sizes == [1, 33, 24, 40, 40, 40, number, biased + 2 * added]
    absent = y.data_ptr()
    expected = [t.data_ptr() if t is not None else absent for t in (x, w, y, bias, residual)]
    assert pack.buffers[:5] == expected
    assert pack.last.device == 0
    assert not pack.last.stream


def test_a_vector_and_rows_apart() -> None:
    w = half(24, 40, seed=1)
    check_product(by_kernel("linear", half(40), w), half(40), w.t())
    wide = half(20, 48)[:, :40]  # rows of a wider matrix: no copy
    check_product(by_kernel("linear", wide, w), wide, w.t())


def test_weights_of_a_wider_matrix(pack: Pack) -> None:
    x, w = half(20, 40), half(24, 64, seed=1)[:, 8:48]
    check_product(by_kernel("linear", x, w), x, w.t())
    assert pack.sizes[:6] == [1, 20, 24, 40, 40, 64]


LAYOUTS: dict[str, Callable[[int, int, int], Tensor]] = {
    "n": lambda r, c, seed: half(r, c, seed=seed),
    "n, apart": lambda r, c, seed: half(r, c + 24, seed=seed)[:, 16 : c + 16],
    "t": lambda r, c, seed: half(c, r, seed=seed).t(),
    "t, apart": lambda r, c, seed: half(c, r + 8, seed=seed)[:, :r].t(),
}


@pytest.mark.parametrize("a_layout", LAYOUTS)
@pytest.mark.parametrize("b_layout", LAYOUTS)
def test_layouts(pack: Pack, a_layout: str, b_layout: str) -> None:
    a, b = LAYOUTS[a_layout](24, 40, 0), LAYOUTS[b_layout](40, 16, 1)
    if (a_layout[0], b_layout[0]) == ("t", "t"):  # no kernel for it in the pack
        y, why = by_aten("mm", a, b)
        assert why == "no kernel for this GPU has this operator, dtype and layout"
        assert torch.equal(y, a @ b)
        return
    check_product(by_kernel("mm", a, b), a, b)
    assert pack.sizes[:4] == [1, 24, 16, 40]
    assert pack.sizes[4:6] == [max(a.stride()), max(b.stride())]


def test_columns_of_a_transposed_operand(pack: Pack) -> None:
    """Its last vector in part, where memory does not end with it; then also a depth that is no multiple of 8."""
    whole, b = half(41, 40), half(41, 16, seed=1)
    a = whole[:, 3:40].t()[:, :40]  # begins at 6 bytes: misaligned
    assert by_aten("mm", a, b[:40])[1] == "an operand does not begin at a multiple of 16 bytes"
    a = whole[:, :37].t()
    check_product(by_kernel("mm", a, b), a, b)
    assert pack.sizes[:6] == [1, 37, 16, 41, 40, 16]
    short = torch.empty(40 * 41 - 3, dtype=torch.float16).as_strided((41, 37), (40, 1)).copy_(whole[:, :37]).t()
    y, why = by_aten("mm", short, b)
    assert why == "a size or stride is not the multiple that the kernels need"
    assert torch.equal(y, a @ b)
    batch = half(3, 21, 40)[:, :, :37].transpose(1, 2)
    check_product(by_kernel("bmm", batch, half(3, 21, 16, seed=1)), batch, half(3, 21, 16, seed=1))


def test_a_batch(pack: Pack) -> None:
    a, b = half(5, 24, 40), half(5, 40, 16, seed=1)
    check_product(by_kernel("bmm", a, b), a, b)
    assert pack.sizes[:6] == [5, 24, 16, 40, 40, 16]
    swapped = half(5, 16, 40, seed=1).transpose(1, 2)
    check_product(by_kernel("bmm", a, swapped), a, swapped)
    a = half(5, 40, 24).transpose(1, 2)
    check_product(by_kernel("bmm", a, b), a, b)
    assert pack.sizes[4] == 24


def test_a_batch_of_single_rows(pack: Pack) -> None:
    """Of which the next row begins where the next matrix does."""
    a, b = half(5, 3, 40)[:, :1], half(5, 40, 16, seed=1)
    check_product(by_kernel("bmm", a, b), a, b)
    assert pack.sizes[:6] == [5, 1, 16, 40, 120, 16]


def test_batches_that_do_not_follow_each_other() -> None:
    a, b = half(5, 24, 40), half(1, 40, 16, seed=1).expand(5, 40, 16)
    y, why = by_aten("bmm", a, b)
    assert why == "operands that are not contiguous"
    assert torch.equal(y, a @ b)
    a = half(24, 5, 40).transpose(0, 1)
    assert by_aten("bmm", a, half(5, 40, 16))[1] == "operands that are not contiguous"


def test_matmul_of_many_matrices_by_one() -> None:
    """Through the dispatcher, whose composite function calls mm; here with the key of CPU, so its function alone."""
    a, b = half(2, 3, 16, 40), half(40, 16, seed=1)
    check_product(on_gpu("mm", a.view(-1, 40), b).view(2, 3, 16, 16), a, b)


def test_addmm(pack: Pack) -> None:
    a, b, row, full = half(24, 40), half(40, 16, seed=1), half(16, seed=2), half(24, 16, seed=3)
    for self, flags in ((row, 1), (full, 2)):
        y = by_kernel("addmm", self, a, b)
        exact = self.double() + a.double() @ b.double()
        assert_rounded(y, exact, a.double().abs() @ b.double().abs() + self.double().abs(), 40)
        assert pack.sizes[7] == flags
    for alpha, beta in ((2, 1), (1, 0.5), (1, 0)):
        y, why = by_aten("addmm", row, a, b, beta=beta, alpha=alpha)
        assert torch.equal(y, torch.addmm(row, a, b, beta=beta, alpha=alpha))
        assert "no kernel covers" in why
    column = half(24, 1, seed=4)
    assert torch.equal(by_aten("addmm", column, a, b)[0], torch.addmm(column, a, b))


@pytest.mark.parametrize("name", ["mm", "bmm", "addmm"])
def test_out(name: str) -> None:
    batch = (3,) if name == "bmm" else ()
    a, b, self = half(*batch, 24, 40), half(*batch, 40, 16, seed=1), half(16, seed=2)
    operands = (self, a, b) if name == "addmm" else (a, b)
    out = torch.zeros(*batch, 24, 16, dtype=torch.float16)
    assert by_kernel(f"{name}.out", *operands, out=out) is out
    assert torch.equal(out, by_kernel(name, *operands))
    for odd in (
        torch.zeros(*batch, 24, 32, dtype=torch.float16)[..., :16],  # not contiguous
        torch.zeros(3 * 24 * 16 + 4, dtype=torch.float16)[4 : 4 + out.numel()].view(out.shape),  # misaligned
    ):
        by_aten(f"{name}.out", *operands, out=odd)
        assert torch.equal(odd, getattr(torch, name)(*operands))


def test_out_over_an_operand() -> None:
    a = half(24, 24)
    y, _ = by_aten("mm.out", a.clone(), a, out=a)
    assert y is a


@pytest.mark.parametrize(
    ("m", "n", "k"), [(20, 24, 36), (20, 20, 40), (20, 12, 12)], ids=["K of 36", "N of 20", "both"]
)
def test_sizes_that_are_no_multiples(m: int, n: int, k: int) -> None:
    x, w = half(m, k), half(n, k, seed=1)
    y, why = by_aten("linear", x, w)
    assert why == "a size or stride is not the multiple that the kernels need"
    assert torch.equal(y, torch.nn.functional.linear(x, w))


def test_strides_that_are_no_multiples() -> None:
    x, w = half(20, 44)[:, :40], half(24, 40, seed=1)
    assert by_aten("linear", x, w)[1] == "a size or stride is not the multiple that the kernels need"


@pytest.mark.parametrize("which", range(4))
def test_misaligned_operands(which: int) -> None:
    """One of input, weight, bias and residual begins four bytes late."""
    shapes = [(20, 40), (24, 40), (24,), (20, 24)]
    operands = [half(*shape, seed=i) for i, shape in enumerate(shapes)]
    late = torch.empty(operands[which].numel() + 2, dtype=torch.float16)[2:].view(shapes[which])
    operands[which] = late.copy_(operands[which])
    x, w, bias, residual = operands
    y, why = by_aten("linear", x, w, bias, None, residual)
    assert why == "an operand does not begin at a multiple of 16 bytes"
    assert torch.equal(y, torch.nn.functional.linear(x, w, bias) + residual)


@pytest.mark.parametrize("shapes", [((0, 40), (40, 16)), ((24, 0), (0, 16)), ((24, 40), (40, 0))])
def test_empty(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    a, b = (half(*s) for s in shapes)
    y, why = by_aten("mm", a, b)
    assert why == "nothing to multiply"
    assert torch.equal(y, a @ b)
    assert by_aten("linear", a, b.t())[0].shape == y.shape


@pytest.mark.parametrize(
    "operands",
    [
        (half(24, 40).double(), half(40, 16).double()),
        (half(24, 40).to(torch.int32), half(40, 16).to(torch.int32)),
        (half(24, 80)[:, ::2], half(40, 16)),
        (torch.complex(half(24, 40).float(), half(24, 40).float()).conj(), torch.zeros(40, 16, dtype=torch.complex64)),
    ],
    ids=["float64", "int32", "steps", "complex"],
)
def test_what_no_kernel_covers(operands: tuple[Tensor, Tensor]) -> None:
    y, why = by_aten("mm", *operands)
    assert torch.equal(y, operands[0] @ operands[1])
    assert why


def test_errors_are_torch_s() -> None:
    for call in (
        lambda: on_gpu("mm", half(3, 4), half(5, 6)),
        lambda: on_gpu("linear", half(3, 4), half(5, 6)),
        lambda: on_gpu("bmm", half(2, 3, 4), half(3, 4, 5)),
        lambda: on_gpu("mm", half(8, 8), half(8, 8, dtype=torch.bfloat16)),
        lambda: on_gpu("linear", half(8, 8), half(8, 8), half(7)),
    ):
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.parametrize(
    ("setting", "no", "yes"), [("allow_tf32", False, True), ("fp32_precision", "ieee", "tf32")], ids=["old", "new"]
)
def test_float32_is_rounded_only_if_torch_may(setting: str, no: object, yes: object) -> None:
    """Torch's own getters refuse to answer in one way what was set in the other."""
    a, b = randn(24, 40), randn(40, 16, seed=1)
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        setattr(matmul, setting, no)
        y, why = by_aten("mm", a, b)
        assert why == "float32 is not to be rounded to TF32"
        assert torch.equal(y, a @ b)
        setattr(matmul, setting, yes)
        check_product(by_kernel("mm", a, b), a, b)
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = before


def test_the_most_specific_kernel(pack: Pack) -> None:
    """Static N and K, then few rows; the one for 9.0 and the one with too much shared memory never."""
    expected = {
        (20, 64, 32): "matmul(float16;M=*,N=64,K=32;a=n,b=t)@sm_80",
        (4, 64, 32): "matmul(float16;M=*,N=64,K=32;a=n,b=t)@sm_80",
        (16, 64, 40): "matmul(float16;M=*,N=*,K=*;a=n,b=t,rows=16)@sm_80",
        (8, 64, 40): "matmul(float16;M=*,N=*,K=*;a=n,b=t,rows=16)@sm_80",
        (17, 64, 40): GENERAL,
    }
    for (m, n, k), name in expected.items():
        x, w = half(m, k), half(n, k, seed=1)
        with tvmops.mode("force"):
            (decision,) = tvmops.explain(on_gpu, "linear", x, w)
        assert decision.kernel == name
        check_product(by_kernel("linear", x, w), x, w.t())
    assert pack.launches


def test_a_workspace(pack: Pack) -> None:
    x, w = half(5, 40), half(24, 40, seed=1)
    check_product(by_kernel("linear", x, w), x, w.t())
    assert pack.last.workspace % 256 == 0
    by_kernel("linear", half(20, 40), w)
    assert not pack.last.workspace


def test_threads() -> None:
    """Calls from many threads, each with a result of its own."""
    results: dict[int, bool] = {}
    operands = [(half(24, 40, seed=i), half(16, 40, seed=100 + i)) for i in range(8)]

    def work(i: int) -> None:
        x, w = operands[i]
        with tvmops.mode("force"):
            expected = on_gpu("linear", x, w)
            results[i] = all(torch.equal(on_gpu("linear", x, w), expected) for _ in range(50))
        check_product(expected, x, w.t())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)


def test_vectors_are_aten_s() -> None:
    a, v = half(24, 40), half(40, seed=1)
    y, why = by_aten("mv", a, v)
    assert torch.equal(y, a @ v)
    assert "vector" in why


def test_the_cpu_key_is_as_it_was(pack: Pack) -> None:
    before = pack.launches
    with tvmops.mode("force"):
        OPS.linear(half(24, 40), half(16, 40))
        (decision,) = tvmops.explain(tvmops.mm, randn(24, 40), randn(40, 16))
    assert decision.kernel
    assert not decision.kernel.endswith("@sm_80")
    assert pack.launches == before
