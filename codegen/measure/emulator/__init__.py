"""CUDA kernels on the CPU: a source that was exported, launcher included, runs thread by thread, and is watched.

``compile`` makes a library of a source, ``Emulated`` launches its kernels, ``EmulationError`` says what one did wrong;
``link_pack`` makes a pack of an export, for the extension.

How it works. The source becomes C++ (translate.py; inline PTX by asm.py, ptx.py and hopper.py), which is compiled with
the headers in runtime/ and, in place of CUDA's, those in include/. Each thread is a fiber; what a warp or a block does
together is a meeting of fibers; clusters of blocks (a block alone is one) run one after another. The order of all of
them can be changed. Asynchronous copies land when the program has waited for them, not before.

What is found, by thread and block:

* a load, store or copy beyond the buffers of a launch, or beyond the block's shared memory; a write to an input.
  Buffers are so far apart that no 32-bit index leads from one into another;
* an address that is not aligned for its type or instruction;
* a read of shared memory that nothing wrote;
* two accesses of shared memory or of a buffer, one of them a write, that no barrier orders, and any access of bytes
  that a copy under way writes: of each byte the last write and the last reads by two warps are known, so a race of
  three warps may need another order to be seen;
* threads that meet at different barriers or instructions, and those that wait for ever;
* in clusters: an access of a block's shared memory, barriers included, before something says that the block has begun
  or after it has returned, and a block that returns while copies to its shared memory are under way;
* where that is asked for, as it takes longer to compile: signed integers that overflow, as indices do at large sizes;
* launches that CUDA refuses; errors of the CUDA runtime can be had on request.

Plain loads and stores are watched too: GCC's ThreadSanitizer puts a call before each, which the runtime answers in
place of its library. What stays in a thread's own stack (registers, local arrays) is not watched; what was never
assigned there holds a pattern that makes results wrong.

Numbers are the hardware's up to the order of sums in a tensor core, and to the last bits of functions that it
approximates. Time is not emulated; a block of 128 x 128 of a GEMM takes some milliseconds for each 32 of K.
"""

from .build import compile
from .launch import Emulated, EmulationError
from .pack import link_pack

__all__ = ["Emulated", "EmulationError", "compile", "link_pack"]
