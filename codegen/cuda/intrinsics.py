"""What one warp does at once on NVIDIA GPUs since sm_80, as PTX: the names, and the sizes that go with them.

Sources: PTX ISA, "Matrix Fragments for mma.m16n8k16", "mma.m16n8k8", "ldmatrix", "cp.async", "cvt".
"""

from __future__ import annotations

WARP = 32
CHUNK_BYTES = 16  # that ldmatrix reads of a row, and that a copy brings at most
BANKS = 8  # chunks that shared memory gives at once
FRAGMENT = 16  # rows or columns of what the four 8 x 8 matrices of one ldmatrix make; it is DEPTH_BYTES deep
DEPTH_BYTES = 2 * CHUNK_BYTES
CHUNK = 8  # 16-bit elements of CHUNK_BYTES

COMMIT = "cp.async.commit_group"
WAIT = "cp.async.wait_group"
# To nearest, ties away from zero, infinity and NaN as they are. Without it the TensorCore drops the low 13 bits, and
# sums of many products come out too small.
ROUND = "cvt.rna.tf32.f32"


def item_bytes(dtype: str) -> int:
    """Of an element of A, B and C."""
    return 4 if dtype == "float32" else 2


def mma(dtype: str) -> str:
    """D [16, 8] += A [16, k] B [k, 8] in float32, k of DEPTH_BYTES: 4 registers of D, 4 of A, 2 of B, 4 of C."""
    low, k = {"float16": ("f16", 16), "bfloat16": ("bf16", 16), "float32": ("tf32", 8)}[dtype]
    return f"mma.sync.aligned.m16n8k{k}.row.col.f32.{low}.{low}.f32"


def ldmatrix(*, transposed: bool) -> str:
    """Four 8 x 8 matrices: lane 8 i + r names row r of the i-th; ``transposed``: its column, to the lanes.

    Of 32-bit elements a matrix is 8 x 4: each lane has one in place of a pair. They can't be transposed.
    """
    return f"ldmatrix.sync.aligned.m8n8.x4{'.trans' if transposed else ''}.shared.b16"


def copy(size: int) -> str:
    """An asynchronous copy of so many bytes; 16 pass L1 by."""
    return f"cp.async.{'cg' if size == CHUNK_BYTES else 'ca'}.shared.global"
