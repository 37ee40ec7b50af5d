"""The second half of sums over rows: what each group of threads has summed becomes one row.

The first half adds, row by row, to a vector of the group's own, in registers or in the workspace. So the order of a sum
depends on the sizes alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import tirx
from tvm.ir import Expr
from tvm.script import tirx as T

from ..leaves.lower import f32, i32, sequence

COLUMNS, LANES = 32, 32  # of a block: a warp reads neighbouring columns of one group's sums
THREADS = COLUMNS * LANES


def bound(thread: tirx.Var, threads: int, block: tirx.Var, blocks: Expr, body: tirx.Stmt) -> tirx.Stmt:
    """A kernel: its body for every thread of every block."""
    for var, tag, extent in ((thread, "threadIdx.x", i32(threads)), (block, "blockIdx.x", blocks)):
        axis = tirx.IterVar(tvm.ir.Range(i32(0), extent), var, tirx.IterVar.ThreadIndex, tag)
        body = tirx.AttrStmt(axis, "thread_extent", extent, body)
    return body


def summed(rooms: Mapping[tirx.Buffer, tirx.Buffer], slots: Expr, n: Expr) -> tirx.Stmt:
    """The kernel that sums ``slots`` vectors of ``n`` in each room into the argument that it is for."""
    block, thread = tirx.Var("block", "int32"), tirx.Var("thread", "int32")
    lane = (thread // i32(COLUMNS)).astype("int64")
    column = block.astype("int64") * tirx.IntImm("int64", COLUMNS) + (thread % i32(COLUMNS)).astype("int64")
    lanes = tirx.IntImm("int64", LANES)
    there = column < n
    sums, totals, made = [], [], []
    for i, (argument, room) in enumerate(rooms.items()):
        acc = tirx.decl_buffer((1,), "float32", f"sum{i}", scope="local")
        shared = tirx.decl_buffer((THREADS,), "float32", f"sums{i}", scope="shared")
        out = tirx.decl_buffer(argument.shape, "float32", f"{argument.name}_total", data=argument.data)
        made += [tirx.AllocBuffer(acc), tirx.AllocBuffer(shared), tirx.DeclBuffer(out, data=argument.data)]
        s, other = tirx.Var("s", "int64"), tirx.Var("lane", "int32")
        zero = tirx.BufferStore(acc, f32(0.0), [i32(0)])
        before = tirx.BufferLoad(acc, [i32(0)])
        more = tirx.BufferLoad(room, [(lane + s * lanes) * n + column])
        count = tirx.truncdiv(slots - lane + (lanes - tirx.IntImm("int64", 1)), lanes)
        add = tirx.For(
            s, tirx.IntImm("int64", 0), count, tirx.ForKind.SERIAL, tirx.BufferStore(acc, before + more, [i32(0)])
        )
        sums += [zero, tirx.IfThenElse(there, add, None), tirx.BufferStore(shared, before, [thread])]
        part = tirx.BufferLoad(shared, [other * i32(COLUMNS) + thread])
        fold = tirx.For(other, i32(0), i32(LANES), tirx.ForKind.SERIAL, tirx.BufferStore(acc, before + part, [i32(0)]))
        totals += [zero, fold, tirx.BufferStore(out, before, [column])]
    barrier = tirx.Evaluate(T.tvm_storage_sync("shared"))
    first = tirx.And(thread < i32(COLUMNS), there)
    body = sequence(*made, *sums, barrier, tirx.IfThenElse(first, sequence(*totals), None))
    blocks = (n + tirx.IntImm("int64", COLUMNS - 1)) // tirx.IntImm("int64", COLUMNS)
    return bound(thread, THREADS, block, tirx.max(tirx.IntImm("int64", 1), blocks).astype("int32"), body)
