"""A pack whose kernels run in the emulator: ``tvmops.load_pack`` takes it for one of a GPU's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ...errors import CodegenError
from ...export import pack
from ...target import GpuTarget, find_gpu
from .build import compile_host, compile_object, link

_SYMBOLS = pack.SYMBOLS.replace("local:", "tvmops_emulator_*; local:")


def link_pack(directory: Path | str, library: Path | str, target: str | GpuTarget) -> Path:
    """Builds the pack of an exported directory from its CUDA sources, to be loaded on a machine without a GPU.

    Its device has the compute capability of ``target``; kernels for others are in the pack too, as in one for a GPU.
    Kernels work on the host's memory: through the extension, call an operator at the CUDA key with tensors on the CPU.
    Shared memory is watched as ever, but not the bounds of tensors, which nothing tells the emulator. What it finds is
    the text of the error that the launch returns.

    Raises:
        CodegenError: a source is not understood or does not compile, there is none, or there is no compiler.
    """
    directory, about = Path(directory), find_gpu(target) if isinstance(target, str) else target
    sources = sorted(set(directory.glob("*.cu")) - {directory / pack.DEVICE_ENTRIES})
    if not sources:
        raise CodegenError(f"there is no CUDA source in {directory}")
    major, minor = about.capability
    facts = (
        '#include "emulator.h"\n'
        f"static const emulator::DeviceFacts facts({major}, {minor}, {about.multiprocessors}, {about.shared_bytes});\n"
    )
    objects = [compile_object(path.read_text()) for path in (*sources, pack.device_entries())]
    objects += [compile_host((directory / "pack.c").read_text()), compile_host(facts, language="c++")]
    with tempfile.NamedTemporaryFile("w", suffix=".map") as script:
        script.write(_SYMBOLS)
        script.flush()
        return link(objects, Path(library), extra=[f"-Wl,--version-script={script.name}"])
