"""Problems for kernels: tensors in the order of a launch, the same computation by ATen, and in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.devices import Device
from codegen import ops
from codegen.cuda.reduce_cut import ReduceShape, launch_sizes
from codegen.measure.device_files import DeviceRequest, Point
from codegen.workload import Workload

DTYPES = {
    name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64", "int64", "int32", "uint8")
}
# As csrc/drivers/activation.h numbers them.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
HAS_BIAS, HAS_RESIDUAL = 1, 2
#: What one rounding to a dtype may cost, and a transcendental function in float32: no result is asked to be closer.
ROUNDING = {"float32": 2.0**-20, "tf32": 2.0**-10, "float16": 2.0**-11, "bfloat16": 2.0**-9}
#: Rows of a row program that are checked, and their lengths.
ROWS_CHECKED = ((1, 2), (3, 5), (7, 67), (4, 128), (33, 1000), (2, 8200), (130, 257))
#: Reductions that are checked: outer, n, inner. Rows along memory and across, whole and in pieces.
REDUCTIONS_CHECKED = ((1, 2, 1), (70, 7, 1), (33, 1000, 1), (2, 40001, 1), (3, 9, 70), (2, 1000, 8), (1, 3000, 264))
#: Positions, heads, elements of a head.
ROTARY_CHECKED = ((1, 1, 2), (5, 3, 6), (7, 2, 64), (300, 4, 40))
#: Scanned along the second: rows and columns.
SCANS_CHECKED = ((3, 1, 1), (70, 24, 1), (5, 1001, 1), (1, 300000, 1), (2, 40, 16), (1, 3000, 5))
#: Elements that are made afresh; longer inputs repeat them, which takes less time.
DISTINCT = 1 << 22
#: Elements on either side of a result that no kernel may write to.
GUARD = 64


@dataclass
class Problem:
    """One call: ``buffers``, ``sizes`` and ``params`` of the launch; ``aten()`` and ``exact()`` give its results."""

    point: Point
    buffers: list[Tensor]
    sizes: list[int]
    params: list[float]
    outputs: list[Tensor]
    guarded: list[Tensor]  # the memory around each output
    aten: Callable[[], Any]
    exact: Callable[[], Any]
    traced: Callable[..., Any]  # as torch.compile gets it, with `traced_args`
    traced_args: tuple[Any, ...]
    flops: int
    bytes: int

    def poison(self) -> None:
        """What is not written shows: results become NaN, and their surroundings a pattern."""
        for out, around in zip(self.outputs, self.guarded, strict=True):
            around.fill_(7)
            out.fill_(math.nan if out.is_floating_point() else -1)

    def intact(self) -> bool:
        """Whether nothing was written beside the results."""
        return all(bool((g[:GUARD] == 7).all()) and bool((g[-GUARD:] == 7).all()) for g in self.guarded)


def _output(shape: tuple[int, ...], dtype: torch.dtype, device: Device) -> tuple[Tensor, Tensor]:
    count = math.prod(shape)
    around = torch.empty(count + 2 * GUARD, dtype=dtype, device=device.where)
    return around[GUARD : GUARD + count].view(shape), around


def is_tf32(request: DeviceRequest) -> bool:
    """Whether a kernel rounds float32 operands to TF32; then ATen may do so, too."""
    return request.params.get("tf32", 0) == 1


def rounding(request: DeviceRequest, result: Tensor) -> float:
    """The error that a result may have for being rounded, or for its operands being so."""
    return ROUNDING.get("tf32" if is_tf32(request) else str(result.dtype).removeprefix("torch."), 0.0)


def problem(request: DeviceRequest, point: Point, seed: int, device: Device) -> Problem:
    """The problem of a request at a point."""
    makers = {"cuda_gemm": _gemm, "cuda_reduce": _reduce, "cuda_rotary": _rotary, "cuda_scan": _scan}
    make = makers.get(request.driver, _rows)
    return make(request, Workload.parse(request.workload), point, seed, device)


def checks(request: DeviceRequest) -> list[Point]:
    """Where the numbers are checked: ragged sizes around the kernel's blocks, and every epilogue."""
    workload = Workload.parse(request.workload)
    if request.driver == "cuda_rotary":
        return [Point(dict(zip("MHN", sizes, strict=True))) for sizes in ROTARY_CHECKED]
    if request.driver == "cuda_scan":
        return [Point(dict(zip("MNI", sizes, strict=True))) for sizes in SCANS_CHECKED]
    make = {"cuda_gemm": _gemm_checks, "cuda_reduce": _reduce_checks}.get(request.driver, _rows_checks)
    return list(make(request, workload))


# -- cuda_gemm -----------------------------------------------------------------------------------------------------


def _gemm(request: DeviceRequest, workload: Workload, point: Point, seed: int, device: Device) -> Problem:
    """``sizes``: batch, M, N, K; ``pad``, if there, elements more in each row of A and B."""
    batch, m, n, k = (point.sizes[name] for name in ("batch", "M", "N", "K"))
    pad = point.sizes.get("pad", 0)
    a_turned, b_turned = (workload.attrs.get(name, "n") == "t" for name in ("a", "b"))
    dtype = DTYPES[workload.dtype]
    generator = torch.Generator(device.where).manual_seed(seed)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        x = torch.randn(shape, generator=generator, device=device.where, dtype=torch.float32)
        return x.mul_(scale).to(dtype)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        memory = randn(batch, rows, columns + pad, scale=scale)
        return memory, memory[:, :, :columns]

    a_memory, a = matrix(k, m) if a_turned else matrix(m, k)
    b_memory, b = matrix(n, k, k**-0.5) if b_turned else matrix(k, n, k**-0.5)
    c, around = _output((batch, m, n), dtype, device)
    name, _, more = point.epilogue.partition(" + ")
    activation = name if name in ACTIVATIONS else "none"
    bias = randn(n) if point.epilogue else None
    residual = randn(batch, m, n) if more == "residual" else None
    flags = (HAS_BIAS if bias is not None else 0) | (HAS_RESIDUAL if residual is not None else 0)
    function = ACTIVATIONS[activation]

    def call(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        left = a.mT if a_turned else a
        if b_turned and batch == 1:
            y = torch.nn.functional.linear(left[0], b[0], bias)[None]
        else:
            y = torch.matmul(left, b.mT if b_turned else b)
            y = y if bias is None else y + bias
        y = function(y)
        return y if residual is None else y + residual

    def exact() -> Tensor:
        return call(a.double(), b.double(), *(None if x is None else x.double() for x in (bias, residual)))

    element = a.element_size()
    return Problem(
        point,
        [a_memory, b_memory, c, c if bias is None else bias, c if residual is None else residual],
        [batch, m, n, k, a.stride(1), b.stride(1), list(ACTIVATIONS).index(activation), flags],
        [],
        [c],
        [around],
        lambda: call(a, b, bias, residual),
        exact,
        call,
        (a, b, bias, residual),
        2 * batch * m * n * k,
        element * (batch * (m * k + n * k + m * n * (2 if residual is not None else 1)) + (0 if bias is None else n)),
    )


def _gemm_checks(request: DeviceRequest, workload: Workload) -> Iterator[Point]:
    bm, bn, bk = (request.params.get(name, 64) for name in ("block_m", "block_n", "block_k"))
    align = request.params.get("align", 8)  # of contiguous extents
    depth = bk * max(1, request.params.get("stages", 1))
    split = max(1, request.params.get("split_k", 1))
    most = request.params.get("rows", 0)
    n, k = (workload.dims.get(name) for name in ("N", "K"))
    step = align if workload.attrs.get("a", "n") == "t" else 1  # rows of a transposed A are its contiguous extent

    def sizes(batch: int, m: int, n_: int, k_: int, pad: int = 0) -> dict[str, int]:
        m = workload.dims.get("M") or max(step, (min(m, most) if most else m) // step * step)
        found = {"batch": batch, "M": m, "N": n or _whole(n_, align), "K": k or _whole(k_, align)}
        return {**found, "pad": align} if pad else found

    yield Point(sizes(1, 1, align, align))
    yield Point(sizes(1, bm + 1, bn + align, bk + align))
    yield Point(sizes(1, bm - 1, bn - align, depth - align))
    yield Point(sizes(1, 2 * bm, 2 * bn, depth + bk))
    yield Point(sizes(1, 5, 2 * bn + align, split * (depth + bk) + align))
    yield Point(sizes(3, bm + 7, bn + 24, bk, pad=1))
    for name in ACTIVATIONS:
        yield Point(sizes(1, bm + 9, bn // 2 + 8, 2 * bk + 8), f"{name} + residual" if name == "none" else name)


def _whole(size: int, align: int) -> int:
    return max(align, size // align * align)


# -- cuda_rows -----------------------------------------------------------------------------------------------------


def _rows(request: DeviceRequest, workload: Workload, point: Point, seed: int, device: Device) -> Problem:
    operator = rows_operator(workload)
    sizes = dict(point.sizes)
    m, n = sizes.get("M", 1), sizes["N"]
    data = DTYPES[workload.dtype]
    arrays = _repeated(workload, tuple(sizes.items()), seed)
    given = [torch.from_numpy(a).to(device.where) for a in arrays]
    roles = [role for _, role, written, _ in request.operands if not written]
    # On a GPU ATen has the statistics of a norm in float32, whatever the data.
    wide = "scalar" if device.where.type == "cuda" else None
    rounded = [
        x.to(data) if x.is_floating_point() and role != wide else x for x, role in zip(given, roles, strict=True)
    ]
    of: dict[str, tuple[int, ...]] = {"row": (m, n), "vector": (n,), "partial": (n,), "scalar": (m,), "single": (1,)}
    buffers: list[Tensor] = []
    outputs: list[tuple[str, Tensor, Tensor]] = []
    inputs = iter(rounded)
    for name, role, written, dtype in request.operands:
        kind = data if dtype == "data" else DTYPES[dtype]
        if written:
            out, around = _output(of[role], kind, device)
            outputs.append((name, out, around))
            buffers.append(out)
        else:
            buffers.append(next(inputs).to(kind).contiguous())

    def call(*tensors: Tensor) -> Any:
        return operator.aten(*tensors)

    return Problem(
        point,
        buffers,
        [m, n] + [n] * len(buffers),  # rows that follow each other
        [float(v) for v in operator.arguments({"M": m, "N": n})],
        [out for _, out, _ in outputs],
        [around for _, _, around in outputs],
        lambda: operator.aten(*rounded),
        lambda: operator.aten(*(x.double() if x.is_floating_point() else x for x in rounded)),
        call,
        tuple(rounded),
        0,
        sum(b.numel() * b.element_size() for b in buffers),
    )


def rows_operator(workload: Workload) -> Any:
    """The operator of a row program, as it is on GPUs."""
    operator: Any = ops.load(workload.op)
    return operator.on_device


@functools.lru_cache(maxsize=1)  # for all sets of buffers of a point
def _repeated(workload: Workload, at: tuple[tuple[str, int], ...], seed: int) -> list[np.ndarray]:
    """The operator's inputs; of large ones only the beginning is made, and repeated."""
    operator = rows_operator(workload)
    sizes = dict(at)
    leading = next(iter(workload.dims))  # M, or the N of a flat operator
    width = 1 if leading == "N" else sizes["N"]
    few = {**sizes, leading: min(sizes[leading], max(1, DISTINCT // width))}
    arrays = operator.inputs(workload, few, seed)
    return [np.resize(a, shape) for a, (_, shape) in zip(arrays, operator.shapes(sizes), strict=True)]


def _rows_checks(request: DeviceRequest, workload: Workload) -> Iterator[Point]:
    static = workload.dims["N"]
    shapes = ROWS_CHECKED if static is None else tuple((m, static) for m in (1, 3, 33))
    for m, n in shapes:
        yield Point({"M": m, "N": n} if "M" in workload.dims else {"N": m * n})


# -- cuda_reduce ---------------------------------------------------------------------------------------------------


def _reduce(request: DeviceRequest, workload: Workload, point: Point, seed: int, device: Device) -> Problem:
    """``sizes``: M around, N reduced, inner behind."""
    operator: Any = ops.load(workload.op)
    outer, n, inner = (point.sizes[name] for name in ("M", "N", "inner"))
    (array,) = _repeated(workload, (("M", outer * inner), ("N", n)), seed)
    x = torch.from_numpy(array).to(device.where).to(DTYPES[workload.dtype]).view(outer, n, inner)
    result = torch.int64 if operator.indexed else x.dtype
    y, around = _output((outer, inner), result, device)
    shape = ReduceShape(**{name: request.params[name] for name in ReduceShape.__dataclass_fields__})
    _, divisor, _ = operator.arguments({"N": n})
    return Problem(
        point,
        [x, y],
        launch_sizes(shape, outer, n, inner),
        [float(divisor)],
        [y],
        [around],
        lambda: operator.aten(x),
        lambda: operator.aten(x.double()),
        operator.aten,
        (x,),
        0,
        x.numel() * x.element_size() + y.numel() * y.element_size(),
    )


def _reduce_checks(request: DeviceRequest, workload: Workload) -> Iterator[Point]:
    for outer, n, inner in REDUCTIONS_CHECKED:
        yield Point({"M": outer, "N": n, "inner": inner})


# -- cuda_rotary ---------------------------------------------------------------------------------------------------


def _rotary(request: DeviceRequest, workload: Workload, point: Point, seed: int, device: Device) -> Problem:
    operator: Any = ops.load(workload.op)
    m, h, n = (point.sizes[name] for name in "MHN")
    x, cos, sin = (torch.from_numpy(a).to(device.where) for a in operator.inputs(workload, point.sizes, seed))
    x = x.to(DTYPES[workload.dtype])
    y, around = _output((m, h, n), x.dtype, device)
    strides = [m * h * n, h * n, n]
    return Problem(
        point,
        [x, cos, sin, y],
        [1, m, h, n // 2, 0, *strides, *strides, 0, n // 2, 0, 0],
        [],
        [y],
        [around],
        lambda: operator.aten(x, cos, sin),
        lambda: operator.aten(*(t.double() for t in (x, cos, sin))),
        operator.aten,
        (x, cos, sin),
        0,
        2 * x.numel() * x.element_size() + 8 * cos.numel(),
    )


# -- cuda_scan -----------------------------------------------------------------------------------------------------


def _scan(request: DeviceRequest, workload: Workload, point: Point, seed: int, device: Device) -> Problem:
    operator: Any = ops.load(workload.op)
    dtype = DTYPES[workload.dtype]
    given = [torch.from_numpy(a).to(device.where, dtype) for a in operator.inputs(workload, point.sizes, seed)]
    if len(given) == 3:  # the products are those of what was rounded
        given[2] = torch.cumprod(given[1], 1)
    out, around = _output(tuple(given[0].shape), dtype, device)

    def exact() -> Tensor:
        return torch.from_numpy(operator.reference(*(x.double().cpu().numpy() for x in given))).to(device.where)

    return Problem(
        point,
        [*given, out],
        [*point.sizes.values(), 2 if len(given) == 3 else 0],  # a gradient is scanned from the end
        [],
        [out],
        [around],
        lambda: operator.aten(*given),
        exact,
        operator.aten,
        tuple(given),
        0,
        (len(given) + 1) * out.numel() * out.element_size(),
    )
