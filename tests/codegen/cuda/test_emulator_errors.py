"""What a kernel must not do is found, and said in a sentence."""

import numpy as np
import pytest

from codegen.errors import CodegenError
from codegen.measure import emulator
from codegen.measure.emulator import EmulationError
from tests.codegen.cuda.emulated import run, source


def _floats(n=64, value=1.0):
    return np.full(n, value, np.float32)


_LOAD = "__shared__ alignas(16) float s[64]; s[threadIdx.x] = p0[threadIdx.x];"
_COPY = """
  __shared__ alignas(16) float s[256];
  unsigned to = __cvta_generic_to_shared(s + threadIdx.x * 4);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(p0 + threadIdx.x % 16 * 4));
  asm volatile("cp.async.commit_group;");
"""

BAD = {
    "a read beyond a buffer": (
        "p1[threadIdx.x] = p0[threadIdx.x + 1];",
        r"thread \(63,0,0\) of block \(0,0,0\) reads 4 bytes that belong to no buffer.*0 of 256 bytes, at offset 256",
    ),
    "a read before a buffer": ("p1[threadIdx.x] = p0[(int)threadIdx.x - 1];", r"thread \(0,0,0\).*at offset -4"),
    "a write beyond a buffer": ("p1[threadIdx.x * 2] = 0;", r"thread \(32,0,0\).*writes 4 bytes.*buffer 1"),
    "a wild write": ("p1[threadIdx.x + 100000000] = 0;", r"writes 4 bytes that belong to no buffer"),
    # Where the other buffer would be, if 16 MiB were between them.
    "a write far away": ("p1[(int)threadIdx.x - 4195328] = 0;", r"writes 4 bytes that belong to no buffer"),
    "a null pointer": ("float* q = nullptr; p1[0] = q[threadIdx.x];", r"null pointer"),
    "a misaligned vector": (
        "float4 v = *(float4*)(p0 + threadIdx.x % 8); p1[threadIdx.x] = v.x;",
        r"thread \(1,0,0\).*not a multiple of 16 for",
    ),
    "a misaligned copy": (_COPY.replace("% 16 * 4", "% 16"), r"thread \(1,0,0\).*cp.async.*not a multiple"),
    "a copy from beyond a buffer": (_COPY.replace("% 16 * 4", "* 4"), r"thread \(16,0,0\).*reads 16 bytes.*cp.async"),
    "a write beyond shared memory": (
        "__shared__ float s[32]; s[threadIdx.x] = 1;",
        r"\(32,0,0\).*shared memory at 128",
    ),
    "what nothing wrote": (
        "__shared__ float s[64]; p1[threadIdx.x] = s[threadIdx.x];",
        r"address 0 .*nothing has written",
    ),
    "no barrier after a write": (
        f"{_LOAD} p1[threadIdx.x] = s[(threadIdx.x + 32) % 64];",
        r"nothing has written|thread \(0,0,0\) wrote with no barrier between",
    ),
    "no barrier before a write": (
        f"{_LOAD} __syncthreads(); if (threadIdx.x < 32) s[threadIdx.x] = 0;"
        "else p1[threadIdx.x] = s[63 - threadIdx.x];",
        r"writes shared address \d+ .*which thread \(\d+,0,0\) read with no barrier between",
    ),
    "no __syncwarp within a warp": (
        f"{_LOAD} __syncthreads(); if (threadIdx.x % 2) s[threadIdx.x] = 0; else p1[threadIdx.x] = s[threadIdx.x + 1];",
        r"writes shared address 132 .*\(32,0,0\) read with no barrier between",
    ),
    "two writers of one place": (
        "__shared__ float s[1]; if (threadIdx.x % 32 == 3) s[0] = 1; __syncthreads(); p1[threadIdx.x] = s[0];",
        r"thread \(35,0,0\) .*writes shared address 0 .*thread \(3,0,0\) wrote",
    ),
    "two threads that write one element": ("p1[threadIdx.x / 2] = 1;", r"writes buffer 1 element 0 .*\(0,0,0\) wrote"),
    "a read of a copy under way": (
        f"{_COPY} p1[threadIdx.x] = s[threadIdx.x * 4];",
        r"reads shared address 0 .*under way",
    ),
    "a copy that is not waited for": (
        f"{_COPY}{_COPY.replace('s[256]', 'u[256]').replace('(s +', '(u +').replace('unsigned to', 'to')}"
        'asm volatile("cp.async.wait_group 1;"); p1[threadIdx.x] = s[threadIdx.x * 4] + u[threadIdx.x * 4];',
        r"under way",
    ),
    "no barrier after a copy": (
        f'{_COPY} asm volatile("cp.async.wait_group 0;"); p1[threadIdx.x] = s[threadIdx.x * 4 ^ 4];',
        r"under way|nothing has written|no barrier between",
    ),
    "a barrier that half of the block reaches": (
        'if (threadIdx.x < 32) __syncthreads();\n else { while (true) { asm volatile("bar.sync 1, 64;"); } }',
        r"deadlock.*thread \(0,0,0\) waits at __syncthreads.*thread \(32,0,0\) waits at bar.sync",
    ),
    "different barriers": (
        "if (threadIdx.x < 32) {\n __syncthreads();\n } else {\n __syncthreads();\n }",
        r"\(32,0,0\).*at __syncthreads \(line 12\) while thread \(0,0,0\) waits at another one \(line 10\)",
    ),
    "a shuffle that half of a warp reaches": (
        "if (threadIdx.x % 32 < 16) p1[threadIdx.x] = __shfl_sync(~0u, p0[threadIdx.x], 0);\n else __syncthreads();",
        r"deadlock.*waits at a shuffle.*waits at __syncthreads",
    ),
    "different instructions": (
        "if (threadIdx.x % 2) p1[0] = __shfl_sync(~0u, 1.0f, 0);\n else p1[1] = __ballot_sync(~0u, 1);",
        r"waits for it at a vote|waits for it at a shuffle",
    ),
    "a mask without the lane": ("p1[threadIdx.x] = __shfl_sync(1u, p0[0], 0);", r"thread \(1,0,0\).*not in the mask"),
    "ldmatrix of part of a warp": (
        f"""{_LOAD} __syncthreads(); if (threadIdx.x % 32 < 8) return;
  uint32_t r; asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%0}}, [%1];" : "=r"(r) : "r"(1024));""",
        r"ldmatrix \(line \d+\), which needs a whole warp",
    ),
    "ldmatrix of a misaligned row": (
        f"""{_LOAD} __syncthreads(); uint32_t r; unsigned at = __cvta_generic_to_shared(s + threadIdx.x % 2);
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%0}}, [%1];" : "=r"(r) : "r"(at));""",
        r"reads 16 bytes at an address that is not a multiple of 16 \(ldmatrix\)",
    ),
    "a shared address of global memory": ("p1[0] = __cvta_generic_to_shared(p0);", r"not in shared memory"),
    "a trap": ("__trap();", r"traps"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("order", ["forward", "random"])
def test_found(tmp_path, what, order):
    body, message = BAD[what]
    with pytest.raises(EmulationError, match=message if order == "forward" else None) as caught:
        run(tmp_path, body, [_floats(), _floats()], ["float", "float"], block=64, options={"order": order})
    assert str(caught.value).startswith("kernel: ")
    assert "\n" not in str(caught.value)
    assert caught.value.code == 719  # cudaErrorLaunchFailure


GOOD = {
    "a warp that synchronises": (
        f"{_LOAD} __syncwarp(); float v = s[threadIdx.x ^ 1]; __syncwarp();"
        "s[threadIdx.x] = v; p1[threadIdx.x] = s[threadIdx.x];"
    ),
    "a copy that is waited for": (
        f'{_COPY} asm volatile("cp.async.wait_all;"); __syncthreads(); p1[threadIdx.x] = s[threadIdx.x * 4 ^ 4];'
    ),
    "threads that returned": (
        "if (threadIdx.x >= 40) return; __syncthreads(); p1[threadIdx.x] = __shfl_sync(~0u, p0[0], 0);"
    ),
    "a vote of those that are there": "if (threadIdx.x % 32 < 5) p1[threadIdx.x] = __popc(__activemask());",
    "the same place read by all": (
        "__shared__ float s; if (threadIdx.x == 9) s = p0[0]; __syncthreads(); p1[threadIdx.x] = s;"
    ),
}


@pytest.mark.parametrize("what", GOOD)
@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_not_found_where_there_is_nothing(tmp_path, what, order):
    out = _floats(value=np.nan)
    run(tmp_path, GOOD[what], [_floats(), out], ["float", "float"], block=64, options={"order": order, "seed": 3})
    lanes = np.arange(64)
    if "returned" in what:
        expected = np.where(lanes < 40, 1, np.nan)
    elif "vote" in what:
        expected = np.where(lanes % 32 < 5, 5, np.nan)
    else:
        expected = np.ones(64)
    np.testing.assert_array_equal(out, expected.astype(np.float32))


HELPERS = """
__forceinline__ __device__ void meet() {
  __syncthreads();
}
__forceinline__ __device__ void copy(unsigned to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from));
}
"""
IN_HELPERS = {
    "if (threadIdx.x < 32) {\n meet();\n } else {\n meet();\n }": r"\(line 19\) while .* another one \(line 17\)",
    "\n\n copy(1024, p0 + 1);": r"\(cp.async\) from an address that is not a multiple of it \(line 18\)",
}


@pytest.mark.parametrize("body", IN_HELPERS)
def test_a_message_names_the_line_in_the_kernel(tmp_path, body):
    with pytest.raises(EmulationError, match=IN_HELPERS[body]):
        run(tmp_path, body, [_floats()], ["float"], block=64, before=HELPERS)


def test_what_is_not_watched_shows_in_numbers(tmp_path):
    """Without the checks, a late copy and poison are wrong numbers."""
    out = _floats()
    options = {"races": False, "uninitialized": False}
    body = "__shared__ float s[64]; p1[threadIdx.x] = s[threadIdx.x];"
    run(tmp_path, body, [_floats(), out], ["float"] * 2, block=64, options=options)
    assert np.isnan(out).all()
    a, out = np.arange(64, dtype=np.float32), _floats()
    body = f"{_COPY} p1[threadIdx.x] = 0;"
    run(tmp_path, body, [a, out], ["float"] * 2, block=64, options={"late": False})
    assert not out.any()


def test_blocks_do_not_see_each_other(tmp_path):
    body = "if (blockIdx.x == 0) p0[threadIdx.x] = 2; else p1[threadIdx.x] = p0[threadIdx.x];"
    with pytest.raises(EmulationError, match=r"block \(1,0,0\) reads buffer 0 element 0 .*block number 0 wrote"):
        run(tmp_path, body, [_floats(32), _floats(32)], ["float"] * 2, grid=2)
    with pytest.raises(EmulationError, match=r"block \(0,0,0\) writes buffer 0 element \d+ .*block number 1 read"):
        run(tmp_path, body, [_floats(32), _floats(32)], ["float"] * 2, grid=2, options={"order": "backward"})


def test_an_input_is_not_written(tmp_path):
    a = _floats()
    a.flags.writeable = False
    with pytest.raises(EmulationError, match=r"writes to buffer 0 .*not an output"):
        run(tmp_path, "p0[threadIdx.x] = 1;", [a, _floats()], ["float"] * 2, block=64)


def test_arrays_that_share_memory_still_do(tmp_path):
    a = _floats(96, 0)
    run(tmp_path, "p0[threadIdx.x] += 1; p1[threadIdx.x] += 2;", [a[:64], a[32:]], ["float"] * 2, block=(32,), grid=1)
    np.testing.assert_array_equal(a, np.repeat([1, 2, 0], 32))
    run(tmp_path, "p0[threadIdx.x] = p1 ? 1 : 5;", [a, None], ["float"] * 2)
    assert a[0] == 5


def test_a_view_keeps_its_offset(tmp_path):
    a = np.arange(65, dtype=np.float32)
    with pytest.raises(EmulationError, match="multiple of 16"):
        run(tmp_path, "p1[threadIdx.x] = ((float4*)p0)[0].x;", [a[1:], _floats()], ["float"] * 2)
    with pytest.raises(ValueError, match="not contiguous"):
        run(tmp_path, "", [a[::2], _floats()], ["float"] * 2)


LAUNCHES = {
    "too many threads": ({"block": 1025}, 9, r"a block of \(1025,1,1\) threads"),
    "an empty grid": ({"grid": 0}, 9, r"a grid of \(0,1,1\) blocks"),
    "a grid that is too high": ({"grid": (1, 65536)}, 9, "grid"),
    "more than its bounds": ({"block": 64, "bounds": "__launch_bounds__(32)"}, 1, "__launch_bounds__ are 32"),
    "more shared memory than there is": ({"shared": 101 << 10}, 1, "the device has 101376 a block"),
}


@pytest.mark.parametrize("what", LAUNCHES)
def test_a_launch_that_cuda_refuses(tmp_path, what):
    about, code, message = LAUNCHES[what]
    with pytest.raises(EmulationError, match=message) as caught:
        run(tmp_path, "", [_floats()], ["float"], target="sm_86", **about)
    assert caught.value.code == code


def test_more_shared_memory_than_was_asked_for(tmp_path):
    text = source("", [], shared=60 << 10).replace("if (!error && 61440 > 49152)", "if (false)")
    with pytest.raises(EmulationError, match="61440 bytes of dynamic shared memory; its limit is 49152") as caught:
        emulator.Emulated(emulator.compile(text, tmp_path)).launch("it", [], [])
    assert caught.value.code == 1


@pytest.mark.parametrize("function", ["cudaGetDevice", "cudaFuncSetAttribute", "cudaLaunchKernel"])
def test_errors_on_request(tmp_path, function):
    emulated = emulator.Emulated(emulator.compile(source("", [], shared=60 << 10), tmp_path))
    emulated.fail(function, 2)
    with pytest.raises(EmulationError, match=f"{function} fails, as it was told to") as caught:
        emulated.launch("it", [], [])
    assert caught.value.code == 2
    emulated.launch("it", [], [])  # once


def test_another_device(tmp_path):
    emulated = emulator.Emulated(emulator.compile(source("", []), tmp_path))
    with pytest.raises(EmulationError, match="device 1; there is one") as caught:
        emulated.launch("it", [], [], device=1)
    assert caught.value.code == 101


NOT_UNDERSTOOD = {
    'asm volatile("frobnicate.u32 %0, 1;" :: "r"(1));': "not know the PTX instruction 'frobnicate.u32' \\(line 9\\)",
    'asm volatile("mov.u32 %0, nowhere;" :: "r"(1));': "names 'nowhere'",
    'asm volatile("cp.async.cg.shared.global [%0], [%1], 8;" :: "r"(0), "l"(p0));': "copies 16 bytes, not 8",
    "this is no C++;": "can't compile the emulated source",
}


@pytest.mark.parametrize("body", NOT_UNDERSTOOD)
def test_a_source_that_is_not_understood(tmp_path, body):
    with pytest.raises(CodegenError, match=NOT_UNDERSTOOD[body]):
        run(tmp_path, body, [_floats()], ["float"])
