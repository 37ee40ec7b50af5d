"""From a scheduled PrimFunc to a leaf: bare pointers instead of tensors, C linkage, nothing needed from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._tvm import Expr, s_tir, tirx

# StorageRewrite drops the annotation that keeps an accumulator tile on the stack, where LLVM turns it into registers.
PASS_CONFIG = {"tirx.disable_storage_rewrite": True}


def i32(value: int) -> tirx.IntImm:
    """An int32 constant."""
    return tirx.IntImm("int32", value)


def f32(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")


def prefetch(buffer: tirx.Buffer, index: Sequence[Expr], *, write: bool = False, locality: int = 3) -> tirx.Stmt:
    """``llvm.prefetch`` of the cache line of ``buffer[index]``, which may lie past the end."""
    address = tirx.address_of(tirx.BufferLoad(buffer, index))
    return tirx.Evaluate(
        tirx.call_llvm_intrin("void", "llvm.prefetch", address, i32(int(write)), i32(locality), i32(1))
    )


def sequence(*statements: tirx.Stmt) -> tirx.Stmt:
    """The statements one after the other (a SeqStmt of length one is not allowed)."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))


def block_body(func: tirx.PrimFunc) -> tirx.Stmt:
    """The body of the root block."""
    return func.body.block.body


def leaf(
    name: str,
    params: Sequence[tirx.Var],
    body: tirx.Stmt,
    local: Sequence[tirx.Buffer] = (),
    views: Mapping[tirx.Buffer, tirx.Buffer] | None = None,
    bind: Mapping[tirx.Var, Expr] | None = None,
) -> tirx.PrimFunc:
    """A C function ``name`` with one pointer per buffer in ``params`` and one int per scalar.

    The buffers ``local`` live on the stack. ``views`` maps a buffer to the one whose memory it names, where two
    separately made pieces of a body meet; ``bind`` gives the scalars of one piece in terms of the parameters.

    ``calling_conv`` other than 0 makes TVM's MakePackedAPI leave the function alone, so that it keeps this signature.
    """
    pointers, head = [], []
    for p in params:
        if tirx.is_buffer_var(p):
            pointer = tirx.Var(p.name + "_ptr", tirx.buffer_data_pointer_type(p))
            pointers.append(pointer)
            head.append(tirx.DeclBuffer(p, data=pointer))
        else:
            pointers.append(p)
    head += [tirx.AllocBuffer(b, annotations={"disable_lower_builtin": i32(1)}) for b in local]
    head += [tirx.Bind(var, value) for var, value in (bind or {}).items()]
    head += [tirx.DeclBuffer(view, data=buffer.data) for view, buffer in (views or {}).items()]
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body, None, [], [], {}))
    func = tirx.PrimFunc(pointers, sequence(*head, root))
    return func.with_attr({"tirx.noalias": True, "s_tir": True, "global_symbol": name, "calling_conv": 2})


def scripted(name: str, func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The leaf of a PrimFunc written in TVMScript with one root block; its allocations move to the stack."""
    return leaf(name, list(func.params), block_body(func), func.body.block.alloc_buffers)
