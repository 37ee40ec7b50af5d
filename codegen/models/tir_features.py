"""Features of the lowered program: what TVM's cost models see of each store, added up over a kernel.

Of each statement that stores, TVM tells 164 numbers: arithmetic by kind, what is vectorised, unrolled or parallel, the
bytes, lines and strides that each buffer is touched with, how they are reused, arithmetic intensity. They are as
logarithms; a kernel has the largest over its stores, and the sum. After Zheng et al., "Ansor", 2020, section 5.2.

They cost a schedule for each choice, milliseconds where features of knobs take microseconds, but they mean the same for
every workload, whatever its knobs are called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm.s_tir import meta_schedule as ms

from ..errors import CodegenError
from ..search.strategy import identity
from ..spaces.intrinsics import only_x86
from ..spaces.space import Choice, Space
from .features import Feature, Features

if TYPE_CHECKING:
    from . import Array


class TirFeatures(Features):
    """Those of the knobs, and those of the program; of choices that TVM can't schedule, the latter are 0."""

    def __init__(self, space: Space) -> None:
        """Raises CodegenError for a space whose candidates are not scheduled by TVM as a whole."""
        super().__init__(space)
        schedule = getattr(space, "schedule", None)
        if schedule is None:
            raise CodegenError(f"the space {space.name} has no features of TIR: its kernels are made of leaves")
        self._schedule: Callable[[Choice], Any] = schedule
        self._extractor = ms.feature_extractor.PerStoreFeature(extract_workload=False)
        with only_x86():
            self._context = ms.TuneContext(target=tvm.target.Target({"kind": "llvm", "num-cores": 1}))
        self._known: dict[tuple[tuple[str, int], ...], Array] = {}
        length = self._extractor.feature_vector_length
        names = [f"{pooled} of TIR feature {i}" for pooled in ("largest", "sum") for i in range(length)]
        self._knob_columns = self.columns
        self.columns = (*self.columns, *(Feature(name, (), lambda _: 0.0) for name in names))

    def matrix(self, choices: Sequence[Choice]) -> Array:
        """One row a choice."""
        of_knobs = np.array([[column.value(c) for column in self._knob_columns] for c in choices], dtype=np.float64)
        of_tir = np.array([self._pooled(choice) for choice in choices], dtype=np.float64)
        shapes = (len(choices), len(self._knob_columns)), (len(choices), len(self.columns) - len(self._knob_columns))
        return np.hstack([of_knobs.reshape(shapes[0]), of_tir.reshape(shapes[1])])

    def _pooled(self, choice: Choice) -> Array:
        name = identity(choice)
        if name not in self._known:
            self._known[name] = self._extract(choice)
        return self._known[name]

    def _extract(self, choice: Choice) -> Array:
        nothing = np.zeros(2 * self._extractor.feature_vector_length)
        try:
            candidate = ms.MeasureCandidate(self._schedule(choice), [])
            (stores,) = self._extractor.extract_from(self._context, [candidate])
        except (RuntimeError, ValueError):  # of TVM, for what it can't schedule
            return nothing
        rows = np.asarray(stores.numpy(), dtype=np.float64)
        return np.concatenate([rows.max(0), rows.sum(0)]) if len(rows) else nothing
