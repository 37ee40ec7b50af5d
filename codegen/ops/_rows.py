"""What operators that are row programs have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import CodegenError
from ..workload import Workload

if TYPE_CHECKING:
    from tvm import te

    from ..program import Program
    from ..spaces.space import Space
    from ..target import GpuTarget, Target

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class RowsOperator:
    """An operator that is a row program. See ``codegen/ops/__init__.py`` for the members.

    ``make`` gives the program (or one per activation, by name); ``aten`` and ``ours`` are PyTorch's and this project's
    call with the program's inputs as tensors. ``flat``: no element depends on another. ``column``: the row may also
    lie along a dimension that is not the last.
    """

    name: str
    make: Callable[[], Program | Mapping[str, Program]]
    aten: Callable[..., Any]
    ours: Callable[..., Any]
    # Of the program, as ``aten`` and ``ours`` have them; of the row length, where they depend on it.
    params: tuple[float, ...] | Callable[[int], tuple[float, ...]] = ()
    lengths: tuple[int, ...] = ()  # row lengths worth a kernel of their own
    flat: bool = False
    column: bool = False
    flops_per_element: int = 1
    fill: Callable[[str, np.random.Generator, tuple[int, ...]], np.ndarray] | None = None
    # For float16 and bfloat16, if not as ``make``.
    low: Callable[[], Program | Mapping[str, Program]] | None = None
    # For AVX-512, in every dtype, if not as those two.
    wide: Callable[[], Program] | None = None
    # Whether kernels for GPUs are shipped; their programs, in every dtype, if not as ``make`` and ``low``.
    device_default: bool = False
    device: Callable[[], Program | Mapping[str, Program]] | None = None
    # The operator as it is on GPUs, where its program there has other operands or parameters.
    device_form: RowsOperator | None = None
    # Where the defaults of the space on a GPU are not the best; for float16 and bfloat16 with the second ones on top.
    device_knobs: Mapping[str, int] = field(default_factory=dict)
    device_knobs_low: Mapping[str, int] = field(default_factory=dict)
    # Where the space's defaults are not the best; for float16 and bfloat16, ``knobs_low`` on top.
    knobs: Mapping[str, int] = field(default_factory=dict)
    knobs_low: Mapping[str, int] = field(default_factory=dict)

    def variants(self, dtype: str = "float32", target: Target | None = None) -> Mapping[str, Program]:
        """The program by activation; "" where there is only one."""
        if self.wide and target and target.lanes() == 16:
            return {"": self.wide()}
        return _by_activation(self.make() if dtype == "float32" or not self.low else self.low())

    def device_variants(self, dtype: str) -> Mapping[str, Program]:
        """The same on a GPU."""
        if self.device_form:
            return self.device_form.variants(dtype)
        return _by_activation(self.device()) if self.device else self.variants(dtype)

    @property
    def on_device(self) -> RowsOperator:
        """Whose inputs, calls and parameters are those of a kernel on a GPU."""
        return self.device_form or self

    def arguments(self, sizes: Mapping[str, int]) -> tuple[float, ...]:
        """The values of the program's parameters."""
        return self.params(sizes["N"]) if callable(self.params) else self.params

    def definition(self, workload: Workload) -> list[te.Tensor]:
        """The first program in TE: inputs, params of one element, outputs."""
        from tvm import te

        from .. import program

        sizes = {name: te.var(name, "int32") if size is None else size for name, size in workload.dims.items()}
        one = next(iter(self.variants(workload.dtype).values()))
        return program.definition(one, sizes.get("M", 1), sizes["N"], workload.dtype)

    def inputs(self, workload: Workload, sizes: Mapping[str, int], seed: int) -> list[np.ndarray]:
        """Standard normal, unless ``fill`` knows better."""
        rng = np.random.default_rng(seed)
        return [
            self.fill(name, rng, shape) if self.fill else rng.standard_normal(shape, "float32")
            for name, shape in self.shapes(sizes)
        ]

    def shapes(self, sizes: Mapping[str, int]) -> list[tuple[str, tuple[int, ...]]]:
        """The inputs' names and shapes."""
        m, n = sizes.get("M", 1), sizes["N"]
        of: dict[str, tuple[int, ...]] = {"row": (m, n), "vector": (n,), "scalar": (m,), "single": (1,)}
        program = next(iter(self.variants().values()))
        return [(o.name, of[o.role]) for o in program.operands if not o.written]

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        """What ``aten`` gives in float64; the first result where there are several."""
        import torch

        tensors = (torch.from_numpy(x) for x in inputs)
        result = self.aten(*(x.double() if x.is_floating_point() else x for x in tensors))
        first = result[0] if isinstance(result, tuple) else result
        return np.asarray(first.numpy())

    def flops(self, sizes: Mapping[str, int]) -> int:
        """About; these operators are bound by memory."""
        return self.flops_per_element * sizes.get("M", 1) * sizes["N"]

    def bytes(self, sizes: Mapping[str, int]) -> int:
        """Every operand once, in float32."""
        m, n = sizes.get("M", 1), sizes["N"]
        elements = {"row": m * n, "vector": n, "partial": n, "scalar": m, "scratch": 0, "single": 1}
        program = next(iter(self.variants().values()))
        return sum(elements[o.role] * (8 if o.dtype == "int64" else 4) for o in program.operands)

    def space(self, workload: Workload, target: Target) -> Space:
        """The space of row programs."""
        from ..spaces.rows import RowsSpace

        knobs = {**self.knobs, **(self.knobs_low if workload.dtype != "float32" else {})}
        variants = self.variants(workload.dtype, target)
        return RowsSpace(workload, target, variants, flat=self.flat, column=self.column, defaults=knobs)

    def workloads(self) -> Sequence[Workload]:
        """Every dtype, any length; and the lengths worth a kernel of their own."""
        dims: list[dict[str, int | None]] = [{"N": None}] if self.flat else [{"M": None, "N": None}]
        dims += [{"M": None, "N": n} for n in self.lengths]
        return [Workload(self.name, dtype, d) for d in dims for dtype in DTYPES]

    def device_space(self, workload: Workload, target: GpuTarget, name: str | None = None) -> Space:
        """The space of row programs on a GPU.

        Raises:
            CodegenError: there is no other.
        """
        from ..spaces.device_rows import DeviceRowsSpace

        if name not in (None, DeviceRowsSpace.name):
            raise CodegenError(f"{workload.key} has no space {name!r} on {target.name}; known: {DeviceRowsSpace.name}")
        variants = self.device_variants(workload.dtype)
        knobs = {**self.device_knobs, **(self.device_knobs_low if workload.dtype != "float32" else {})}
        return cast("Space", DeviceRowsSpace(workload, target, variants, flat=self.flat, defaults=knobs))

    def device_workloads(self) -> Sequence[Workload]:
        """Every dtype, any length."""
        dims: dict[str, int | None] = {"N": None} if self.flat else {"M": None, "N": None}
        return [Workload(self.name, dtype, dims) for dtype in DTYPES]


def _by_activation(made: Program | Mapping[str, Program]) -> Mapping[str, Program]:
    return made if isinstance(made, Mapping) else {"": made}
