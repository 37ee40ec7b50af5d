"""Each instruction against its definition in the PTX ISA, written in NumPy."""

import ml_dtypes
import numpy as np
import pytest

from tests.codegen.cuda.emulated import run

rng = np.random.default_rng(7)
LANE = np.arange(32)
GROUP, PLACE = LANE // 4, LANE % 4
TYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}


def _pairs(values):
    """32-bit registers of two 16-bit elements, the lower half first."""
    return np.ascontiguousarray(values).view(np.uint32)[..., 0]


def _mma_fragments(a, b, c, per):
    """The registers of each lane, by the layouts of PTX ISA 9.0, "mma.m16n8k16" and its like."""
    k = a.shape[1]
    step = 4 * per

    def elements(i):  # of k, that a lane's register i holds
        return i * step + PLACE[:, None] * per + np.arange(per)

    in_a = [(GROUP + 8 * (i % 2), elements(i // 2)) for i in range(2 * k // step)]
    in_b = [elements(i) for i in range(k // step)]
    ra = [a[row[:, None], col] for row, col in in_a]
    rb = [b[row, GROUP[:, None]] for row in in_b]
    rc = np.stack([c[GROUP + 8 * (i // 2), PLACE * 2 + i % 2] for i in range(4)], 1)
    return ra, rb, rc


def _from_c(registers):
    c = np.empty((16, 8), np.float32)
    for i in range(4):
        c[GROUP + 8 * (i // 2), PLACE * 2 + i % 2] = registers[:, i]
    return c


def _mma_text(shape, kind, na, nb):
    numbers = iter(range(99))
    group = lambda n: "{" + ", ".join(f"%{next(numbers)}" for _ in range(n)) + "}"  # noqa: E731
    template = (
        f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {group(4)}, {group(na)}, {group(nb)}, {group(4)};"
    )
    outs = ", ".join(f'"=f"(d[{i}])' for i in range(4))
    ins = [f'"r"(a[{i}])' for i in range(na)] + [f'"r"(b[{i}])' for i in range(nb)]
    ins += [f'"f"(c[{i}])' for i in range(4)]
    return f"""
  uint32_t a[{na}], b[{nb}]; float c[4], d[4];
  for (int i = 0; i < {na}; ++i) a[i] = p0[threadIdx.x * {na} + i];
  for (int i = 0; i < {nb}; ++i) b[i] = p1[threadIdx.x * {nb} + i];
  for (int i = 0; i < 4; ++i) c[i] = p2[threadIdx.x * 4 + i];
  __asm__ __volatile__("{template}\\n" : {outs} : {", ".join(ins)});
  for (int i = 0; i < 4; ++i) p3[threadIdx.x * 4 + i] = d[i];
"""


@pytest.mark.parametrize(("k", "kind"), [(8, "f16"), (16, "f16"), (8, "bf16"), (16, "bf16"), (4, "tf32"), (8, "tf32")])
def test_mma_sync(tmp_path, k, kind):
    a, b, c = rng.standard_normal((16, k)), rng.standard_normal((k, 8)), rng.standard_normal((16, 8)).astype(np.float32)
    if kind == "tf32":
        # Bits that the tensor core does not read are set: they must not count.
        a, b = ((x.astype(np.float32).view(np.uint32) | np.uint32(0x1FFF)).view(np.float32) for x in (a, b))
        ra, rb, rc = _mma_fragments(a, b, c, 1)
        ra, rb = ([x[:, 0].copy().view(np.uint32) for x in r] for r in (ra, rb))
        a, b = ((x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for x in (a, b))
    else:
        a, b = a.astype(TYPES[kind]), b.astype(TYPES[kind])
        ra, rb, rc = _mma_fragments(a, b, c, 2)
        ra, rb = ([_pairs(x) for x in r] for r in (ra, rb))
    ra, rb = np.stack(ra, 1), np.stack(rb, 1)
    d = np.full((32, 4), np.nan, np.float32)
    body = _mma_text(f"m16n8k{k}", kind, ra.shape[1], rb.shape[1])
    run(tmp_path, body, [ra, rb, rc, d], ["uint32_t", "uint32_t", "float", "float"])
    exact = a.astype(np.float64) @ b.astype(np.float64) + c
    np.testing.assert_allclose(_from_c(d), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(tmp_path, count, transposed):
    # Rows are 80 bytes apart, and lane i gives the row i.
    data = rng.integers(0, 1 << 16, (32, 40), dtype=np.uint16)
    out = np.zeros((32, count), np.uint32)
    registers, way = ", ".join(f"%{i}" for i in range(count)), ".trans" if transposed else ""
    outs = ", ".join(f'"=r"(r[{i}])' for i in range(count))
    body = f"""
  extern __shared__ __align__(16) unsigned char memory[];
  uint16_t* s = (uint16_t*)memory;
  for (int i = threadIdx.x; i < 32 * 40; i += 32) s[i] = p0[i];
  __syncthreads();
  uint32_t r[{count}];
  unsigned address = __cvta_generic_to_shared(s + threadIdx.x * 40 + 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{way}.shared.b16 {{{registers}}}, [%{count}];"
               : {outs} : "r"(address));
  for (int i = 0; i < {count}; ++i) p1[threadIdx.x * {count} + i] = r[i];
"""
    run(tmp_path, body, [data, out], ["uint16_t", "uint32_t"], shared=32 * 80)
    for m in range(count):
        matrix = data[m * 8 : m * 8 + 8, 8:16]
        matrix = matrix.T if transposed else matrix
        expected = _pairs(np.stack([matrix[GROUP, PLACE * 2], matrix[GROUP, PLACE * 2 + 1]], 1))
        np.testing.assert_array_equal(out[:, m], expected)


def test_stmatrix_is_ldmatrix_backwards(tmp_path):
    registers = rng.integers(0, 1 << 32, (32, 4), dtype=np.uint32)
    out = np.zeros((32, 8), np.uint16)
    body = """
  __shared__ alignas(16) uint16_t s[32 * 8];
  unsigned address = __cvta_generic_to_shared(s + threadIdx.x * 8);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               :: "r"(address), "r"(p0[threadIdx.x * 4]), "r"(p0[threadIdx.x * 4 + 1]), "r"(p0[threadIdx.x * 4 + 2]),
                  "r"(p0[threadIdx.x * 4 + 3]));
  __syncwarp();
  for (int i = 0; i < 8; ++i) p1[threadIdx.x * 8 + i] = s[threadIdx.x * 8 + i];
"""
    run(tmp_path, body, [registers, out], ["uint32_t", "uint16_t"])
    for m in range(4):
        pairs = registers[:, m].copy().view(np.uint16).reshape(32, 2)
        for e in range(2):
            np.testing.assert_array_equal(out[m * 8 + GROUP, PLACE * 2 + e], pairs[:, e])


# Lane i copies to shared memory; what the fourth operand leaves out becomes zero.
_COPIES = {
    "ca 4": ("cp.async.ca.shared.global [%0], [%1], 4;", 4, lambda lane: 4),
    "ca 8": ("cp.async.ca.shared.global [%0], [%1], 8;", 8, lambda lane: 8),
    "ca 16": ("cp.async.ca.shared.global.L2::128B [%0], [%1], 16;", 16, lambda lane: 16),
    "cg 16": ("cp.async.cg.shared.global [%0], [%1], 16;", 16, lambda lane: 16),
    "cg bytes": ("cp.async.cg.shared.global [%0], [%1], 16, %2;", 16, lambda lane: lane % 17),
    "ignore": (
        "{ .reg .pred p; setp.ge.s32 p, %2, 9; cp.async.cg.shared.global [%0], [%1], 16, p; }",
        16,
        lambda lane: 0 if lane % 17 >= 9 else 16,
    ),
    "predicate": (
        "{ .reg .pred p; setp.lt.s32 p, %2, 9;\\n @p cp.async.ca.shared.global [%0], [%1], 8;\\n"
        " @!p st.shared.v2.u32 [%0], {%3, %3}; }",
        8,
        lambda lane: 8 if lane % 17 < 9 else 0,
    ),
}


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("name", _COPIES)
def test_cp_async(tmp_path, name, late):
    template, size, read = _COPIES[name]
    data = rng.integers(1, 256, (32, 16), dtype=np.uint8)
    out = np.full((32, 16), 77, np.uint8)
    body = f"""
  __shared__ alignas(16) uint8_t s[32 * 16];
  for (int i = 0; i < 16; ++i) s[threadIdx.x * 16 + i] = 5;
  unsigned to = __cvta_generic_to_shared(s + threadIdx.x * 16);
  asm volatile("{template}" :: "r"(to), "l"(p0 + threadIdx.x * 16), "r"((int)threadIdx.x % 17), "r"(0));
  asm volatile("cp.async.commit_group;");
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  for (int i = 0; i < 16; ++i) p1[threadIdx.x * 16 + i] = s[threadIdx.x * 16 + i];
"""
    run(tmp_path, body, [data, out], ["uint8_t", "uint8_t"], options={"late": late})
    expected = np.full((32, 16), 5, np.uint8)
    for lane in range(32):
        expected[lane, :size] = 0
        expected[lane, : read(lane)] = data[lane, : read(lane)]
    np.testing.assert_array_equal(out, expected)


_SHUFFLES = {
    "__shfl_sync(~0u, v, 5, 8)": LANE // 8 * 8 + 5,
    "__shfl_sync(~0u, v, threadIdx.x + 3)": (LANE + 3) % 32,
    "__shfl_up_sync(~0u, v, 3, 16)": np.where(LANE % 16 >= 3, LANE - 3, LANE),
    "__shfl_down_sync(~0u, v, 5)": np.where(LANE < 27, LANE + 5, LANE),
    "__shfl_xor_sync(~0u, v, 9)": LANE ^ 9,
    "__shfl_xor_sync(~0u, v, 9, 8)": LANE,
}


@pytest.mark.parametrize("text", _SHUFFLES)
@pytest.mark.parametrize("kind", ["float", "half", "double", "int"])
def test_shuffles(tmp_path, text, kind):
    dtype = {"float": np.float32, "half": np.float16, "double": np.float64, "int": np.int32}[kind]
    data, out = (rng.standard_normal(32) * 99).astype(dtype), np.zeros(32, dtype)
    run(tmp_path, f"{kind} v = p0[threadIdx.x]; p1[threadIdx.x] = {text};", [data, out], [kind, kind])
    # A lane outside of the width keeps its own value.
    np.testing.assert_array_equal(out, data[_SHUFFLES[text]])


def test_votes_and_reductions(tmp_path):
    data, out = rng.integers(-50, 50, 32, dtype=np.int32), np.zeros((8, 32), np.int32)
    body = """
  int v = p0[threadIdx.x];
  int r[] = {(int)__ballot_sync(~0u, v > 0), __any_sync(~0u, v == 1000), __all_sync(~0u, v < 1000),
             __reduce_add_sync(~0u, v), __reduce_min_sync(~0u, v), (int)__reduce_max_sync(~0u, (unsigned)v),
             (int)__match_any_sync(~0u, v % 3), 0};
  if (threadIdx.x < 8) r[7] = __reduce_max_sync(0xff, v);
  for (int i = 0; i < 8; ++i) p1[i * 32 + threadIdx.x] = r[i];
"""
    run(tmp_path, body, [data, out], ["int", "int"])
    bits = lambda mask: np.int64((mask.astype(np.int64) << LANE).sum()).astype(np.int32)  # noqa: E731
    expected = [bits(data > 0), 0, 1, data.sum(), data.min(), data.view(np.uint32).max().astype(np.int32)]
    for row, value in zip(out, expected, strict=False):
        np.testing.assert_array_equal(row, np.int32(value))
    rest = np.fmod(data, 3)
    np.testing.assert_array_equal(out[6], [bits(rest == value) for value in rest])
    np.testing.assert_array_equal(out[7], [data[:8].max()] * 8 + [0] * 24)


_WMMA = [(shape, kind) for shape in ((16, 16, 16), (32, 8, 16), (8, 32, 16)) for kind in ("half", "__nv_bfloat16")]


@pytest.mark.parametrize(("shape", "kind"), [*_WMMA, ((16, 16, 8), "tf32")])
@pytest.mark.parametrize(("a_layout", "b_layout"), [("row", "col"), ("col", "row")])
def test_wmma(tmp_path, shape, a_layout, b_layout, kind):
    m, n, k = shape
    dtype = {"half": np.float16, "__nv_bfloat16": ml_dtypes.bfloat16, "tf32": np.float32}[kind]
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    c, d = rng.standard_normal((m, n)).astype(np.float32), np.zeros((n, m), np.float32)
    element = "nvcuda::wmma::precision::tf32" if kind == "tf32" else kind
    memory = "float" if kind == "tf32" else kind
    lda, ldb = (k if a_layout == "row" else m), (n if b_layout == "row" else k)
    convert = "for (int i = 0; i < a.num_elements; ++i) a.x[i] = __float_to_tf32(a.x[i]);" if kind == "tf32" else ""
    body = f"""
  using namespace nvcuda::wmma;
  fragment<matrix_a, {m}, {n}, {k}, {element}, {a_layout}_major> a;
  fragment<matrix_b, {m}, {n}, {k}, {element}, {b_layout}_major> b;
  fragment<accumulator, {m}, {n}, {k}, float> c;
  load_matrix_sync(a, p0, {lda});
  load_matrix_sync(b, p1, {ldb});
  load_matrix_sync(c, p2, {n}, mem_row_major);
  {convert}
  mma_sync(c, a, b, c);
  store_matrix_sync(p3, c, {m}, mem_col_major);
"""
    in_memory = [np.ascontiguousarray(x if how == "row" else x.T) for x, how in ((a, a_layout), (b, b_layout))]
    run(tmp_path, body, [*in_memory, c, d], [memory, memory, "float", "float"])
    tolerance = 1e-2 if kind == "tf32" else 1e-5
    exact = a.astype(np.float64) @ b.astype(np.float64) + c
    np.testing.assert_allclose(d.T, exact, rtol=tolerance, atol=tolerance)


def test_barriers_of_some_warps(tmp_path):
    """A producer arrives at barrier 1 and goes on; a consumer waits there, and both meet at barrier 2."""
    out = np.zeros(64, np.int32)
    body = """
  __shared__ int s[32];
  if (threadIdx.x < 32) {
    s[threadIdx.x] = threadIdx.x * 3;
    asm volatile("bar.arrive 1, 64;");
    asm volatile("bar.sync 2, 64;");
    p0[threadIdx.x] = s[threadIdx.x];
  } else {
    asm volatile("bar.sync 1, 64;");
    int v = s[63 - threadIdx.x];
    asm volatile("bar.sync %0, %1;" :: "r"(2), "n"(64));
    p0[threadIdx.x] = v;
  }
"""
    run(tmp_path, body, [out], ["int"], block=64)
    np.testing.assert_array_equal(out, np.r_[LANE * 3, LANE[::-1] * 3])


def test_special_registers_and_arithmetic(tmp_path):
    out = np.zeros((3, 32), np.uint32)
    body = """
  uint32_t lane, x, y = 5;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  asm volatile("{ .reg .b32 t<2>; add.u32 t0, %1, 7; shl.b32 t1, t0, 2; mov.b32 %0, t1; }" : "=r"(x) : "r"(lane));
  asm volatile("{ .reg .pred p; setp.gt.u32 p, %1, 9; selp.b32 %0, %1, %0, p; }" : "+r"(y) : "r"(lane));
  p0[threadIdx.x] = lane; p0[32 + threadIdx.x] = x; p0[64 + threadIdx.x] = y;
"""
    run(tmp_path, body, [out], ["uint32_t"])
    np.testing.assert_array_equal(out, [LANE, (LANE + 7) * 4, np.where(LANE > 9, LANE, 5)])


def test_atomic_addition_from_many_blocks(tmp_path):
    total, count = np.zeros(1, np.float32), np.zeros(1, np.int32)
    run(tmp_path, "atomicAdd(p0, 0.5f); atomicAdd(p1, 1);", [total, count], ["float", "int"], grid=3, block=40)
    assert (total[0], count[0]) == (60.0, 120)


@pytest.mark.parametrize(("kind", "dtype"), [("half", np.float16), ("__nv_bfloat16", ml_dtypes.bfloat16)])
def test_16_bit_types_round_as_numpy_does(tmp_path, kind, dtype):
    exponents = rng.integers(0, 256, 4096).astype(np.uint32) << 23
    bits = (
        exponents | rng.integers(0, 1 << 23, 4096, dtype=np.uint32) | (rng.integers(0, 2, 4096, dtype=np.uint32) << 31)
    )
    ties = (np.arange(4096, dtype=np.uint32) << 12) + np.uint32(0x3F801000)
    values = np.r_[bits, ties, ties | np.uint32(0x8000)].view(np.float32)
    out, back = np.zeros(values.size, dtype), np.zeros(values.size, np.float32)
    body = "for (int i = threadIdx.x; i < s0; i += 32) { p1[i] = p0[i]; p2[i] = p1[i]; }"
    run(tmp_path, body, [values, out, back], ["float", kind, "float"], sizes=[values.size])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(dtype)
    nans = np.isnan(values)
    np.testing.assert_array_equal(out[~nans].view(np.uint16), expected[~nans].view(np.uint16))
    assert np.isnan(out[nans].astype(np.float32)).all()
    np.testing.assert_array_equal(back, out.astype(np.float32))


@pytest.mark.parametrize(("kind", "dtype"), [("half", np.float16), ("__nv_bfloat16", ml_dtypes.bfloat16)])
def test_16_bit_arithmetic_rounds_once(tmp_path, kind, dtype):
    a, b, c = (rng.standard_normal(512).astype(dtype) for _ in range(3))
    out = np.zeros((5, 512), dtype)
    body = f"""
  for (int i = threadIdx.x; i < 512; i += 32) {{
    {kind} a = p0[i], b = p1[i], c = p2[i];
    p3[i] = a + b; p3[512 + i] = a * b; p3[1024 + i] = a / b; p3[1536 + i] = -a; p3[2048 + i] = __hfma(a, b, c);
  }}
"""
    run(tmp_path, body, [a, b, c, out], [kind] * 4)
    x, y, z = (v.astype(np.float64) for v in (a, b, c))
    for row, exact in zip(out, (x + y, x * y, x / y, -x, x * y + z), strict=True):
        np.testing.assert_array_equal(row.view(np.uint16), exact.astype(dtype).view(np.uint16))
