"""Packs of a small layer whose kernels do what no kernel should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codegen import spaces
from codegen.export import pack
from codegen.measure import build as building
from codegen.spaces.space import Choice
from codegen.target import find
from codegen.workload import Workload

WORKLOAD = Workload.parse("linear(float32;M=*,N=40,K=24)")
CRASH = "*(volatile int*)0 = 0;"
HANG = "for (volatile int i = 0;; i++);"
NOTHING = ""


def here(workload: Workload, target: str, directory: Path) -> Callable[[Choice], Path]:
    """Builds without a helper process."""
    return lambda choice: building.build(
        workload, find(target), spaces.find(workload, find(target)), choice, directory / target
    )


def sabotaged(
    target: str, directory: Path, body: str, *, name: str = "sabotaged", loading: str = ""
) -> Callable[[Choice], Path]:
    """Builds a candidate whose micro-kernels are a C function of that body, or that does something while it is loaded.

    In the latter case its kernels are sound.
    """

    def build(choice: Choice) -> Path:
        pack_directory = here(WORKLOAD, target, directory)(choice).parent
        source = pack_directory / "pack.c"
        text = source.read_text()
        if loading:
            function = f"__attribute__((constructor)) static void sabotaged(void) {{ {loading} }}"
        else:
            function = f"static void sabotaged(void) {{ {body} }}"
            leaves = spaces.find(WORKLOAD, find(target)).apply(choice)
            tiles = [leaf.symbol for leaf in leaves if leaf.name.startswith("tile.")]
            for symbol in tiles:
                text = text.replace(f", {symbol}}}", ", sabotaged}")
            assert text.count("sabotaged") == len(tiles)
        includes = "".join(f"#include <{h}.h>\n" for h in ("dlfcn", "signal", "stdio", "stdlib", "unistd"))
        source.write_text(f"#define _GNU_SOURCE\n{includes}{function}\n{text}")
        return pack.link(pack_directory, pack_directory / f"{name}.so", (pack_directory / "leaves").glob("*.o"))

    return build
