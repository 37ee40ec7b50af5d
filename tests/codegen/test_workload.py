from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16

from codegen import ops, spaces
from codegen.errors import CodegenError
from codegen.ops._rows import RowsOperator
from codegen.target import find
from codegen.workload import Workload, parse_dims

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
dims = st.dictionaries(st.from_regex(r"[A-Z]{1,3}", fullmatch=True), st.none() | st.integers(1, 10**9), min_size=1)
words = st.text("abcxyz_019.", min_size=1)


@given(names, st.sampled_from(["float32", "bfloat16", "int8"]), dims, st.dictionaries(names, words))
def test_the_key_tells_everything(op, dtype, sizes, attributes):
    workload = Workload(op, dtype, sizes, attributes)
    again = Workload.parse(workload.key)
    assert again == workload
    assert again.key == workload.key
    assert list(again.dims) == list(sizes)


@given(st.text(max_size=30).filter(lambda text: "(" not in text))
def test_any_other_text_is_refused_by_name(text):
    with pytest.raises(CodegenError) as caught:
        Workload.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [("M=0", "M=0"), ("M=", "M="), ("=3", "=3"), ("M=-1", "M=-1"), ("M=²", "M=²"), ("M=1,M=2", "'M' is given twice")],
)
def test_a_bad_dimension_is_named(text, named):
    with pytest.raises(CodegenError, match="dimension") as caught:
        parse_dims(text)
    assert named in str(caught.value)


def test_every_shipped_workload_is_sound_and_named_once():
    shipped = ops.shipped()
    assert [ops.check(w) for w in shipped] == shipped
    assert len({w.key for w in shipped}) == len(shipped)
    assert {(w.dims["N"], w.dims.get("K")) for w in shipped} >= {(384, 1536), (3072, 768), (50257, 768), (4096, 4096)}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("conv9(float32;M=*)", "unknown operator 'conv9'; known: "),
        ("linear(float16;M=*,N=8,K=8)", "no float16 kernels"),
        ("linear(float32;N=8,M=*,K=8)", "M,N,K, in this order, not N,M,K"),
        ("linear(float32;M=*,N=*,K=8)", "M symbolic, N static, K static"),
        ("linear(float32;M=*,N=8,K=8;relu=1)", "no attribute 'relu'"),
        ("matmul(int8;M=*,N=*,K=*)", "no int8 kernels, only float32, float16, bfloat16"),
        ("matmul(float16;M=*,N=*,K=*)", "kernel of matmul needs a, b"),
        ("matmul(float16;M=*,N=*,K=*;a=n,b=x)", "b=x is not one of n, t"),
        ("matmul(float32;M=*,N=*,K=*;a=n,b=t)", "needs tf32"),
        ("matmul(float16;M=*,N=*,K=*;a=n,b=t,tf32=1)", "no attribute 'tf32'"),
    ],
)
def test_a_workload_without_kernels_is_refused(key, said):
    with pytest.raises(CodegenError) as caught:
        ops.check(Workload.parse(key))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "key", ["matmul(float16;M=*,N=*,K=*;a=t,b=t)", "matmul(bfloat16;M=*,N=64,K=8;a=n,b=t,rows=64)"]
)
def test_a_gpu_workload_has_layouts_and_static_or_symbolic_sizes(key):
    workload = Workload.parse(key)
    assert ops.check(workload) is workload
    with pytest.raises(CodegenError, match="is for a GPU, not for x86-64-v3"):
        spaces.find(workload, find("x86-64-v3"))


@pytest.mark.parametrize("workload", ops.device_workloads("matmul"), ids=str)
def test_the_definition_of_a_gpu_workload_agrees_with_its_inputs_and_reference(workload):
    import numpy as np
    import torch
    import tvm
    from tvm import te

    operator = ops.load("matmul")
    sizes = {"M": 5, "N": 16, "K": 24}
    a, b = operator.inputs(workload, sizes, 1)
    assert a.shape == (5, 24)
    assert b.shape == (24, 16)
    assert [a.flags.c_contiguous, b.flags.c_contiguous] == [workload.attrs[x] == "n" for x in "ab"]
    low = getattr(torch, workload.dtype)
    rounded = [torch.from_numpy(x).to(low).float().numpy() for x in (a, b)]
    expected = operator.reference(*rounded)
    memory = [
        np.ascontiguousarray(x if workload.attrs[n] == "n" else x.T)[None] for n, x in zip("ab", rounded, strict=True)
    ]
    args = [
        tvm.runtime.tensor(x.astype(bfloat16 if low == torch.bfloat16 else np.dtype(workload.dtype))) for x in memory
    ]
    c = tvm.runtime.tensor(np.zeros((1, 5, 16), args[0].dtype))
    tvm.compile(te.create_prim_func(operator.definition(workload)), target="llvm")(*args, c)
    bound = (float(torch.finfo(low).eps) + 24 * 2**-24) * np.abs(expected).max()
    np.testing.assert_allclose(c.numpy()[0].astype(np.float64), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    "workload", [w for w in ops.shipped() if (w.dims["N"] or 0) <= 1536 and w.dtype == "float32"], ids=str
)
def test_definition_inputs_reference_and_aten_agree(workload):
    import numpy as np
    import torch
    import tvm
    from tvm import te

    operator = ops.load(workload.op)
    fixed = Workload(workload.op, workload.dtype, {n: s or 2 * i for i, (n, s) in enumerate(workload.dims.items(), 3)})
    arrays = operator.inputs(workload, fixed.dims, 3)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, operator.inputs(workload, fixed.dims, 3), strict=True))
    expected = operator.reference(*arrays)
    aten = operator.aten(*map(torch.from_numpy, arrays))
    aten = aten[0] if isinstance(aten, tuple) else aten
    np.testing.assert_allclose(aten.numpy(), expected, rtol=1e-4, atol=1e-4)

    params = (
        [np.asarray([p], "float32") for p in operator.arguments(fixed.dims)]
        if isinstance(operator, RowsOperator)
        else []
    )
    definition = operator.definition(fixed)
    results = [
        tvm.runtime.tensor(np.zeros([int(size) for size in t.shape], str(t.dtype)))
        for t in definition[len(arrays) + len(params) :]
    ]
    compiled = tvm.compile(te.create_prim_func(definition), target="llvm")
    compiled(*map(tvm.runtime.tensor, [*arrays, *params]), *results)
    if workload.op in ("cross_entropy", "cross_entropy_backward"):  # what targets do is left to csrc/ops
        assert all(np.isfinite(result.numpy()).all() for result in results)
        return
    np.testing.assert_allclose(results[0].numpy().reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)

    if workload.op in ("matmul", "linear"):
        m, n, k = fixed.dims.values()
        assert operator.flops(fixed.dims) == 2 * m * n * k
    assert operator.bytes(fixed.dims) == sum(a.nbytes for a in arrays) + sum(r.numpy().nbytes for r in results)
