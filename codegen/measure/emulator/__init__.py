"""CUDA kernels on the CPU: a source that was exported, launcher included, runs thread by thread, and is watched.

``compile`` makes a library of a source, ``Emulated`` launches its kernels, ``EmulationError`` says what one did wrong;
``link_pack`` makes a pack of an export, for the extension.
Numbers are those of the hardware up to the order of sums in a tensor core, and up to the last bits of functions that it
approximates. Time is not emulated.
"""

from .build import compile
from .launch import Emulated, EmulationError
from .pack import link_pack

__all__ = ["Emulated", "EmulationError", "compile", "link_pack"]
