"""Scans on a GPU: rows and columns, cut and whole, forward, exclusive and from the end, in the emulator."""

import numpy as np
import pytest
import torch

from codegen import spaces
from codegen.cuda.lower import emit
from codegen.cuda.scan_states import kind_of
from codegen.errors import CodegenError
from codegen.measure import emulator
from codegen.spaces.space import broken
from codegen.target import GPU_TARGETS, find_gpu
from codegen.workload import Workload
from tests.codegen.cuda.device_rows import TARGET, TORCH, array
from tests.codegen.cuda.mutants import Mutant

# What is computed, and in what; few threads and blocks, so that small tensors have many tiles and pieces.
MADE = [("cumsum", "float32"), ("cumsum", "float16"), ("cumprod", "bfloat16"), ("cumprod_backward", "float32")]
KNOBS = {"threads": 64, "count": 2, "depth": 2, "blocks": 1}
# [outer, n, inner]. Rows: one element, parts of a warp, whole vectors and not, several tiles of a warp, of a block;
# cut into pieces. Columns: the same.
SIZES = [(3, 1, 1), (70, 3, 1), (9, 24, 1), (5, 33, 1), (3, 256, 1), (2, 999, 1), (1, 4100, 1), (2, 12345, 1)]
SIZES += [(1, 9, 5), (2, 40, 16), (3, 7, 130), (1, 300, 3)]


def key(op, dtype):
    return Workload.parse(f"{op}({dtype};M=*,N=*,I=*)")


@pytest.fixture(scope="module", params=MADE, ids="-".join)
def made(request, tmp_path_factory):
    op, dtype = request.param
    space = spaces.find(key(op, dtype), find_gpu(TARGET))
    (one,) = space.apply({**space.default(), **KNOBS})
    library = emulator.compile(emit(one, find_gpu(TARGET)).text, tmp_path_factory.mktemp(op))
    return op, dtype, one.symbol, emulator.Emulated(library, TARGET)


def given(op, dtype, sizes):
    torch.manual_seed(sum(sizes))
    x = torch.randn(sizes)
    if op != "cumsum":  # products that neither grow nor vanish
        x = x.sign() * (1 + x / 4 / sizes[1] ** 0.5)
    return x.to(TORCH[dtype])


def scanned(op, x, exclusive, reverse):
    """Along dimension 1, of float64."""
    y = x.flip(1) if reverse else x
    first = torch.full_like(y[:, :1], op != "cumsum")
    y = torch.cat([first, y[:, :-1]], 1) if exclusive else y
    y = torch.cumsum(y, 1) if op == "cumsum" else torch.cumprod(y, 1)
    return y.flip(1) if reverse else y


def run(made, x, flags):
    """The result of a launch, what it should be, and how large the numbers are that were added up."""
    op, _, symbol, emulated = made
    out = torch.full_like(x, 7)
    if op != "cumprod_backward":
        emulated.launch(symbol, [array(x), array(out)], [*x.shape, flags])
        return out, scanned(op, x.double(), flags & 1, flags & 2), scanned("cumsum", x.double().abs(), 0, flags & 2)
    leaf = x.double().requires_grad_()
    y = scanned("cumprod", leaf, flags & 1, flags & 2)
    g = torch.randn(x.shape)
    (exact,) = torch.autograd.grad(y, leaf, g.double())
    products = y.detach().to(x.dtype)
    # The scan of the gradient goes the other way.
    emulated.launch(symbol, [array(g.to(x.dtype)), array(x), array(products), array(out)], [*x.shape, flags ^ 2])
    return out, exact, exact.abs().amax(1, keepdim=True) + g.abs().sum(1, keepdim=True)


def check(got, exact, magnitude, dtype):
    n = got.shape[1]
    eps = torch.finfo(TORCH[dtype]).eps
    allowed = 0.51 * eps * exact.abs() + 2.0**-23 * (4 + n**0.5) * magnitude.maximum(exact.abs())
    error = (got.double() - exact).abs()
    assert (error <= allowed).all(), f"{(error / allowed).max().item():.2f} of what is allowed"


def test_every_form(made):
    for sizes in SIZES:
        x = given(made[0], made[1], sizes)
        for flags in range(4) if sizes[1] < 5000 else (0, 3):
            check(*run(made, x, flags), made[1])


@pytest.mark.parametrize("made", [("cumprod_backward", "float32")], indirect=True, ids="-".join)
def test_zeros_have_gradients(made):
    for sizes in ((2, 50, 1), (1, 4100, 1), (1, 40, 3)):
        x = given(*made[:2], sizes)
        x[:, [sizes[1] // 3, sizes[1] // 2]] = 0
        for flags in range(4):
            check(*run(made, x, flags), made[1])


def test_numbers_that_overflow_on_the_way(tmp_path):
    """What has no gradient has none, whatever the factors before it come to."""
    space = spaces.find(key("cumprod_backward", "float32"), find_gpu(TARGET))
    (one,) = space.apply({**space.default(), **KNOBS})
    emulated = emulator.Emulated(emulator.compile(emit(one, find_gpu(TARGET)).text, tmp_path), TARGET)
    x = np.full((1, 64, 1), 1e30, "float32")
    x[0, 0] = 0
    y, g, d = np.zeros_like(x), np.zeros_like(x), np.full_like(x, 7)
    g[0, 0] = 3
    emulated.launch(one.symbol, [g, x, y, d], [1, 64, 1, 2])
    assert d[0, 0, 0] == 3
    assert (d[0, 1:] == 0).all()


# In the kernel for rows of cumsum: what may go missing, or go to the wrong place.
MUTANTS = {
    "a barrier": Mutant(r"__syncthreads\(\);|tvm_builtin_cuda_cta_sync\(\);", "", None),
    "the other slot": Mutant(r"= \(1 - (\w+\[0\])\)", r"= \1", None),
    "a lane too few": Mutant(r"if \(\(1 << (\w+)\) <= ", r"if ((1 << \1) < ", None),
    "the pieces before": Mutant(r"if \(0 < (\w+)\[0\]\) \{", r"if (1 < \1[0]) {", None),
}


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_mutants_are_noticed(name, tmp_path):
    space = spaces.find(key("cumsum", "float32"), find_gpu(TARGET))
    (one,) = space.apply({**space.default(), **KNOBS})
    text = MUTANTS[name].of(emit(one, find_gpu(TARGET)).text)
    mutant = emulator.compile(text, tmp_path)
    x = given("cumsum", "float32", (1, 12345, 1))
    for order in ("forward", "random"):
        made = ("cumsum", "float32", one.symbol, emulator.Emulated(mutant, TARGET, order=order))
        try:
            check(*run(made, x, 0), "float32")
        except (AssertionError, emulator.EmulationError):
            return
    raise AssertionError("not noticed")


@pytest.mark.parametrize("target", GPU_TARGETS)
def test_the_space(target):
    for op, dtype in MADE:
        space = spaces.find(key(op, dtype), find_gpu(target), "device_scan")
        assert broken(space, space.default()) == []
        assert broken(space, {**space.default(), "threads": 512})
        assert space.params(space.default())["operands"] == len(space.apply(space.default())[0].buffers)
    with pytest.raises(CodegenError, match="no space 'device_rows'"):
        spaces.find(key("cumsum", "float32"), find_gpu(target), "device_rows")
    with pytest.raises(CodegenError, match="known: sum, prod"):
        kind_of("max")


def test_a_launch_takes_the_kernels_for_its_sizes():
    """Of those for rows and columns, cut and whole."""
    text = emit(
        spaces.find(key("cumsum", "float32"), find_gpu(TARGET)).apply({**KNOBS, "vector_bytes": 16})[0],
        find_gpu(TARGET),
    )
    assert len(text.launches) == 4
    assert text.workspace
