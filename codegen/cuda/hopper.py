"""Parts of kernels for Hopper: a ring of stages filled by TMA, the order of tiles, descriptors of shared memory."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

WARP, WARPGROUP = 32, 128
TILE_M, STEP_BYTES = 64, 32  # of one wgmma: rows, and bytes of K
ROW_BYTES = 128  # of the swizzle: the depth of a tile in shared memory
COLUMNS = ROW_BYTES // 2  # of 16 bits, where M or N is the contiguous extent
ATOM_BYTES = 8 * ROW_BYTES  # what the 128-byte swizzle repeats after, and is aligned to
UNIT = 16  # bytes that addresses and offsets in descriptors count
# Modes of cuTensorMapEncodeTiled: not interleaved, 128-byte swizzle, 256-byte promotion in L2, zeros out of bounds.
MAP_MODES = (0, 3, 3, 0)
TMA = "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
MULTICAST = ".multicast::cluster"
# Registers of a thread after setmaxnreg, of the producer and of a consumer, by the number of consumers. At launch each
# thread has an equal part of the 65,536; what the producer gives up is what the consumers get.
REGISTERS = {1: (0, 255), 2: (40, 232), 3: (32, 160)}
# What a ring's two variables are, and a place's three.
STAGE, PHASE = 0, 1
BATCH, ROW, COLUMN = 0, 1, 2
# Of what a block knows of the walk: how many tiles there are along M, along N and in all, and its rank in the cluster.
RANK = 3


def descriptor(leading_bytes: int) -> int:
    """A descriptor of shared memory but for its start: 128-byte swizzle (1 in bits 62-63), base offset 0.

    The stride offset (bits 32-45) is from 8 rows or columns to the next 8; the leading one (bits 16-29) is from 64
    columns to the next 64 where M or N is contiguous, and not used where K is.
    """
    return (1 << 62) | (ATOM_BYTES // UNIT) << 32 | (leading_bytes // UNIT) << 16


def step(across: bool) -> int:
    """To the next STEP_BYTES of K, in units: along a swizzled row, or, if ``across``, two groups of 8 rows down."""
    return (2 * ATOM_BYTES if across else STEP_BYTES) // UNIT


def start(word: int, tile: Any) -> Any:
    """The descriptor of the tile that begins at the element ``tile`` of shared memory."""
    # In a cluster the bits beyond 18 are the block's rank.
    address = T.bitwise_and(T.cuda.cvta_generic_to_shared(T.address_of(tile)), T.uint32(0x3FFFF))
    return T.uint64(word) + T.Cast("uint64", T.shift_right(address, T.uint32(4)))


@T.inline
def advance(ring: Any, stages: int) -> None:
    """On to the next stage; past the last the barriers' phase changes."""
    ring[STAGE] = ring[STAGE] + 1
    if ring[STAGE] == stages:
        ring[STAGE] = 0
        ring[PHASE] = ring[PHASE] ^ 1


@T.inline
def locate(place: Any, tile: Any, tiles: Any, group: int, block_m: int, block_n: int) -> None:
    """Which batch, row and column the tile of that number begins at: in columns of ``group`` tiles.

    ``tiles``: how many there are along M and N. Plain variables, or TVM copies the divisions to wherever they are used.
    """
    place[BATCH] = T.truncdiv(tile, tiles[0] * tiles[1])
    place[COLUMN] = T.truncmod(tile, tiles[0] * tiles[1])
    place[ROW] = T.truncdiv(place[COLUMN], tiles[1] * group) * group
    place[COLUMN] = place[COLUMN] - place[ROW] * tiles[1]
    place[3] = T.min(tiles[0] - place[ROW], group)
    place[ROW] = (place[ROW] + T.truncmod(place[COLUMN], place[3])) * block_m
    place[COLUMN] = T.truncdiv(place[COLUMN], place[3]) * block_n


def _cast(mask: int) -> str:
    return MULTICAST if mask else ""


def _blocks(mask: int) -> list[Any]:
    return [T.uint16(mask)] if mask else []


@T.inline
def load(
    to: Any,
    base: Any,
    source: Any,
    across: bool,
    blocks: int,
    k: Any,
    row: Any,
    batch: Any,
    barrier: Any,
    mask: int = 0,
) -> None:
    """Has TMA load the tile of ROW_BYTES of K, ``blocks`` times 64 rows, at (row, k) to the element ``base`` of ``to``.

    ``across``: rows are the contiguous extent, of which a box has 64. ``mask``: the blocks of the cluster that get it,
    each at the same place of its shared memory, where the same barrier counts its bytes; 0: this one alone.
    """
    if across:
        for i in T.unroll(blocks):
            T.ptx[TMA + _cast(mask)](
                T.address_of(to[base + i * (TILE_M * COLUMNS)]),
                T.address_of(source),
                row + i * TILE_M,
                k,
                batch,
                T.address_of(barrier),
                *_blocks(mask),
            )
    else:
        T.ptx[TMA + _cast(mask)](
            T.address_of(to[base]),
            T.address_of(source),
            k,
            row,
            batch,
            T.address_of(barrier),
            *_blocks(mask),
        )


@T.inline
def cluster_sync() -> None:
    """Waits for all threads of the cluster, which then know what each did before."""
    T.ptx["barrier.cluster.arrive.release.aligned"]()
    T.ptx["barrier.cluster.wait.acquire.aligned"]()


@T.inline
def arrive(barrier: Any, base: Any, stage: Any, cluster: int) -> None:
    """A warp is done with a stage, for each block that writes to it: the lane of that number tells the block.

    ``barrier``: the block's own; in a cluster ``base`` is the address of the first of them in the lane's block. No
    release at the cluster's scope: what was read needs none, and ptxas would make a fence of the whole device of it.
    """
    if cluster > 1:
        T.ptx["mbarrier.arrive.shared::cluster.b64"](base + T.Cast("uint32", stage * 8))
    else:
        T.ptx.mbarrier.arrive.shared.b64(T.address_of(barrier))
