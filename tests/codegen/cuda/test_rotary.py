"""Rotary embeddings on a GPU: every layout, pairing and width of a row, in the emulator, against float64."""

import numpy as np
import pytest
import torch

from codegen import spaces
from codegen.cuda.lower import emit
from codegen.errors import CodegenError
from codegen.measure import emulator
from codegen.target import find_gpu
from codegen.workload import Workload
from tests.codegen.cuda.device_rows import TARGET, TORCH, array

DTYPES = sorted(TORCH.keys() - {"int64"})
# Sizes of three dimensions, their order in memory from the outermost, elements of a row, how many of them are turned,
# and those between one row and the next. Whole vectors and not, all turned or a part, more rows than threads.
CASES = [
    ((1, 3, 5), (0, 1, 2), 16, 16, 0),
    ((2, 3, 5), (0, 2, 1), 64, 32, 0),
    ((2, 2, 3), (1, 0, 2), 32, 32, 16),
    ((2, 3, 5), (0, 1, 2), 37, 20, 3),
    ((1, 1, 1), (0, 1, 2), 2, 2, 0),
    ((1, 300, 4), (0, 1, 2), 16, 16, 0),
]


def key(dtype):
    return Workload.parse(f"rotary_embedding({dtype};M=*,H=*,N=*)")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """By dtype; in few blocks, so that threads have several vectors."""
    found = {}
    for dtype in DTYPES:
        space = spaces.find(key(dtype), find_gpu(TARGET))
        (made,) = space.apply({**space.default(), "threads": 64, "blocks": 1})
        library = emulator.compile(emit(made, find_gpu(TARGET)).text, tmp_path_factory.mktemp(dtype))
        found[dtype] = emulator.Emulated(library, TARGET), made
    return found


def strided(memory, sizes, strides, width):
    return memory.as_strided((*sizes, width), (*strides, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout(kernels, dtype):
    emulated, made = kernels[dtype]
    for number, (sizes, order, width, turned, gap) in enumerate(CASES):
        strides, at = [0] * 3, width + gap
        for d in reversed(order):
            strides[d], at = at, at * sizes[d]
        torch.manual_seed(number)
        x = torch.randn(at).to(TORCH[dtype])
        half = turned // 2
        angles = torch.rand(sizes[0], sizes[1], half) * 6
        tables = [sizes[1] * half, half, 0]
        cos, sin = angles.cos(), angles.sin()
        exact_x = strided(x.double(), sizes, strides, width)
        for flags in range(4):
            y = torch.full((at,), 7, dtype=TORCH[dtype])
            values = [*sizes, half, width - turned, *strides, *strides, *tables, flags]
            emulated.launch(made.symbol, [array(x), cos.numpy(), sin.numpy(), array(y)], values)
            got = strided(y, sizes, strides, width)
            part = exact_x[..., :turned]
            one, other = (part[..., ::2], part[..., 1::2]) if flags & 1 else part.chunk(2, -1)
            c, s = cos.double()[:, :, None], sin.double()[:, :, None] * (-1 if flags & 2 else 1)
            pair = (one * c - other * s, other * c + one * s)
            exact = torch.stack(pair, -1).flatten(-2) if flags & 1 else torch.cat(pair, -1)
            info = torch.finfo(TORCH[dtype])
            allowed = info.eps / 2 * exact.abs() + 2.0**-22 * exact.abs().max()
            assert ((got[..., :turned].double() - exact).abs() <= allowed).all(), (number, flags)
            assert torch.equal(got[..., turned:], strided(x, sizes, strides, width)[..., turned:])
            if gap:  # what is between rows stays
                assert (strided(y, sizes, strides, width + gap)[..., width:] == 7).all()


def test_rows_that_are_repeated(kernels):
    """A stride of zero, as an expanded tensor has."""
    emulated, made = kernels["float32"]
    x, y = np.arange(8, dtype="float32"), np.zeros((3, 8), "float32")
    cos, sin = np.zeros(4, "float32"), np.ones(4, "float32")
    emulated.launch(made.symbol, [x, cos, sin, y], [1, 1, 3, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0])
    assert (y == np.concatenate([-x[4:], x[:4]])).all()


def test_whole_vectors_are_loaded_as_such():
    space = spaces.find(key("float16"), find_gpu(TARGET))
    text = emit(space.apply(space.default())[0], find_gpu(TARGET)).text
    assert text.count("= *(uint4*)(X_ptr") == 3
    assert text.count("*(uint4*)(Y_ptr") == 3


def test_the_space():
    space = spaces.find(key("bfloat16"), find_gpu(TARGET), "device_rotary")
    assert space.params(space.default()) == {"bytes": 2, "threads": 256}
    with pytest.raises(CodegenError, match="no space 'device_rows'"):
        spaces.find(key("bfloat16"), find_gpu(TARGET), "device_rows")
    with pytest.raises(CodegenError, match="no space 'device_rotary'"):
        spaces.find(Workload.parse("rotary_embedding(float16;M=4,H=4,N=64)"), find_gpu(TARGET))
