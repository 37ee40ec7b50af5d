"""From a scheduled function to CUDA source: what TVM writes, what is repaired, what is refused."""

import re

import pytest
from tvm import tirx

from codegen.cuda import expressions, repair
from codegen.cuda.lower import emit
from codegen.errors import CodegenError
from codegen.target import find_gpu
from tests.codegen.cuda import device_kernels as kernels


def device_text(source):
    text = source.text
    return text[text.index('extern "C" __global__') : text.index("// The launcher.")]


def test_the_launches_of_a_kernel_of_three_device_functions():
    source = emit(kernels.SCALED_SUM, find_gpu("sm_80"))
    assert [launch.name for launch in source.launches] == [f"scaled_sum_kernel{end}" for end in ("", "_1", "_2")]
    assert source.workspace
    first = source.launches[0]
    assert first.block == ("128", "1", "1")
    assert [(p.name, p.type, p.kind) for p in first.params] == [
        ("A_ptr", "void*", "buffer"),
        ("X_ptr", "void*", "workspace"),
        ("M", "int32_t", "size"),
        ("n8", "int32_t", "size"),
        ("scale", "float", "param"),
    ]
    assert [p.value for p in source.launches[2].params[:3]] == ["buffers[1]", "workspace_0", "workspace_1"]


def test_the_source_includes_nothing_of_torch_or_tvm():
    for kernel, target in ((kernels.SCALED_SUM, "sm_86"), (kernels.TMA_COPY, "sm_90a")):
        text = emit(kernel, find_gpu(target)).text
        assert '#include "abi.h"' in text
        assert not re.search(r"#include .*(torch|ATen|c10|tvm/)", text)


def test_a_vector_read_across_a_barrier_is_read_again():
    text = device_text(emit(kernels.STALE, find_gpu("sm_80")))
    before, _, after = text.rpartition("__syncthreads();")
    reload = r"v_ = S_ptr\[\(31 - \(\(int\)threadIdx\.x\)\)\];"
    assert re.search("half4 " + reload, before)
    assert re.search(reload, after), after
    assert after.index("v_ = ") < after.index("v_.x")


STALE_IN_LOOP = """\
  half4 v_ = *(half4*)(((half*)buf) + 8);
  float x = v_.x;
  for (int i = 0; i < 4; ++i) {
    y[i] = v_.x;
  }
"""


def test_a_vector_read_in_a_loop_is_read_in_every_iteration():
    lines = repair.stale_vectors(STALE_IN_LOOP).split("\n")
    assert lines[3] == "    v_ = *(half4*)(((half*)buf) + 8);"
    assert lines[1] == "  float x = v_.x;"


def test_a_variable_out_of_scope_is_not_read_again():
    text = "{\n  half4 v_ = a[0];\n}\nb[0] = 1;\n{\n  half4 v_ = a[1];\n  c.x = v_.x;\n}"
    assert repair.stale_vectors(text) == text


def test_every_buffer_of_a_warp_becomes_registers():
    text = device_text(emit(kernels.WARP, find_gpu("sm_80")))
    assert "W_ptr[8]" in text
    assert "V_ptr[8]" in text
    assert "/ 32" not in text  # truncdiv(threadIdx.x, 32) is 0


def test_a_division_of_what_may_be_negative_stays():
    a = tirx.Var("a", "int32")
    func = tirx.PrimFunc([a], tirx.Evaluate(tirx.truncdiv(a, tirx.const(32, "int32"))))
    assert repair._floor_divisions(func).body.value.__class__.__name__ == "Div"


def test_a_size_that_the_kernel_does_not_have():
    with pytest.raises(CodegenError, match=r"plain_copy needs 'rows', which is none of its sizes: N$"):
        emit(kernels.copy(n="rows"), find_gpu("sm_80"))


def test_a_buffer_that_the_kernel_does_not_have():
    kernel = kernels.copy()
    renamed = type(kernel)(kernel.symbol, kernel.make, ("A", "C"), kernel.sizes)
    with pytest.raises(CodegenError, match=r"plain_copy needs 'B', none of its buffers: A, C$"):
        emit(renamed, find_gpu("sm_80"))


def test_a_function_that_runs_on_the_host():
    with pytest.raises(CodegenError, match="plain_copy launches nothing"):
        emit(kernels.copy(bind=False), find_gpu("sm_80"))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda n: (n + 127) // 128, "floor_div((n + 127), 128)"),
        (lambda n: tirx.min(n, 4) * tirx.max(n, 2), "(smaller(n, 4) * larger(n, 2))"),
        (lambda n: (n + 127) >> 7, "((n + 127) >> 7)"),
        (lambda n: tirx.Select(n > 3, n, tirx.const(1, "int32")), "((3 < n) ? n : 1)"),
        (lambda n: n.astype("int64") % 8, "floor_mod(n, 8)"),
    ],
)
def test_expressions_in_c(make, text):
    n = tirx.Var("n", "int32")
    assert expressions.c_text(make(n), lambda var: var.name).replace("(n > 3)", "(3 < n)") == text


def test_an_expression_that_c_does_not_get():
    with pytest.raises(CodegenError, match="a launcher can't compute"):
        expressions.c_text(tirx.exp(tirx.Var("x", "float32")), lambda var: var.name)


def test_helpers_of_the_source_are_its_own():
    text = emit(kernels.STALE, find_gpu("sm_80")).text
    assert "\nstatic __device__ half max(" in text
    assert not re.search(r"^(__host__ )?__device__ ", text, re.MULTILINE)


def test_bounds_say_that_one_block_is_enough():
    text = emit(kernels.copy(), find_gpu("sm_80")).text
    assert "__launch_bounds__(128, 1) plain_copy_kernel(" in text
    assert repair.launch_bounds("__launch_bounds__(128, 2) f") == "__launch_bounds__(128, 2) f"


def test_offsets_in_bytes_have_64_bits():
    helper = "uint8_t* src_p = (uint8_t*)src + src_off * 2;"
    assert repair.wide_offsets(helper) == "uint8_t* src_p = (uint8_t*)src + (int64_t)src_off * 2;"
    assert repair.wide_offsets("my_src_off * 2 + src_off + 2") == "my_src_off * 2 + src_off + 2"
