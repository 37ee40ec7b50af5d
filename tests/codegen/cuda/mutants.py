"""Kernels with one thing wrong, and whether the emulator notices."""

import copy
import re
from dataclasses import dataclass

import numpy as np

from codegen.measure import emulator
from codegen.measure.emulator import EmulationError
from tests.codegen.cuda.gemm_judge import BIAS, Case

# More tiles of K than stages; the first is ragged in every size. The last copies of the second go where results do.
CASES = (Case(37, 72, 104, flags=BIAS), Case(64, 64, 160))


@dataclass(frozen=True)
class Mutant:
    """Replaces the match number ``which`` (all, if None) of a pattern in the kernel, or in what it calls."""

    pattern: str
    replacement: str
    which: int | None = 0
    in_helpers: bool = False

    def of(self, text):
        begin, end = re.search(r'extern "C" __global__[^;]*?\{', text).start(), text.index("// The launcher.")
        if self.in_helpers:
            begin, end = 0, begin
        part, matches = text[begin:end], list(re.finditer(self.pattern, text[begin:end]))
        assert matches, f"nothing matches {self.pattern}"
        chosen = matches if self.which is None else [matches[self.which]]
        for match in reversed(chosen):
            part = part[: match.start()] + match.expand(self.replacement) + part[match.end() :]
        assert part != text[begin:end]
        return text[:begin] + part + text[end:]


def noticed(kernel, text, directory):
    """What is noticed: the sentence, or that numbers are wrong; None for nothing."""
    mutant = copy.copy(kernel)
    mutant.library = emulator.compile(text, directory)
    for case in CASES:
        for order in ("forward", "random"):
            try:
                c, expected, bound = mutant.run(case, order=order)
            except EmulationError as error:
                return str(error)
            if not (np.abs(c.astype(np.float64) - expected) <= bound).all():
                return "wrong numbers"
    return None
