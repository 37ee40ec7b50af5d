"""Reading SASS."""

import pytest

from codegen.cuda.lower import emit
from codegen.errors import CodegenError
from codegen.export import nvcc, sass
from codegen.export.pack import abi_header
from codegen.target import find_gpu
from tests.codegen.cuda import device_kernels as kernels

LISTING = """\
	code for sm_80
		Function : f
	.headerflags	@"EF_CUDA_SM80"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                               /* 0x00000a0000017a02 */
                                                                                        /* 0x000fe40000000f00 */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R5], [R2.64], P1 ;              /* 0x0000000002057fae */
        /*0020*/                   HMMA.16816.F32 R4, R8, R12, R4 ;                     /* 0x0000000c0804723c */
        /*0030*/                   HMMA.16816.F32 R4, R8, R12, R4 ;                     /* 0x0000000c0804723c */
        /*0040*/               @P2 BRA 0x20 ;                                           /* 0xffffffe000002947 */
        /*0050*/              @UP0 UIADD3 UR4, UR4, 0x1, URZ ;                          /* 0x0000000104040890 */
        /*0060*/               @P0 BRA 0x10 ;                                           /* 0xffffffa000000947 */
        /*0070*/                   EXIT ;                                               /* 0x000000000000794d */
        /*0080*/                   BRA 0x80;                                            /* 0xfffffff000007947 */
		Function : g
        /*0000*/                   EXIT ;                                               /* 0x000000000000794d */
"""


def test_instructions_by_function():
    found = sass.parse(LISTING)
    assert list(found) == ["f", "g"]
    assert [one.opcode for one in found["f"][:3]] == ["MOV", "LDGSTS.E.BYPASS.128", "HMMA.16816.F32"]
    assert sass.kinds(found["f"]) == {"MOV": 1, "LDGSTS": 1, "HMMA": 2, "BRA": 3, "UIADD3": 1, "EXIT": 1}
    assert sass.kinds(found["g"]) == {"EXIT": 1}


def test_loops_are_what_jumps_back():
    bodies = sass.loops(sass.parse(LISTING)["f"])
    assert [(body[0].address, body[-1].address) for body in bodies] == [(0x20, 0x40), (0x10, 0x60)]


def test_tma_is_seen(tmp_path):
    (tmp_path / "copy.cu").write_text(emit(kernels.TMA_COPY, find_gpu("sm_90a")).text)
    nvcc.compile_source(tmp_path / "copy.cu", tmp_path / "copy.cubin", "sm_90a", [abi_header().parent])
    found = sass.kinds(sass.disassemble(tmp_path / "copy.cubin")["tma_copy_kernel"])
    assert found["UTMALDG"] == 1
    assert found["SYNCS"] > 0


def test_a_file_without_device_code(tmp_path):
    (tmp_path / "text.cubin").write_text("nothing")
    with pytest.raises(CodegenError, match=r"cuobjdump can't read .*text\.cubin|holds no device code"):
        sass.disassemble(tmp_path / "text.cubin")


@pytest.mark.parametrize("name", ["cuobjdump", "nvdisasm"])
def test_no_disassembler(monkeypatch, tmp_path, name):
    known = nvcc.Toolkit.tool
    monkeypatch.setattr(nvcc.Toolkit, "tool", lambda self, asked: None if asked == name else known(self, asked))
    with pytest.raises(CodegenError, match=rf"{name} is not found.*pip install 'tvmops\[cuda\]' brings it"):
        sass.disassemble(tmp_path / "any.cubin")
