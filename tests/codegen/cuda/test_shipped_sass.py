"""Every CUDA kernel that ships, compiled for every architecture: no spills, and the instructions it was written for.

The architectures 8.x mostly have the same choices. Their sources then differ in the number of blocks at most, and one
is compiled for all.
"""

import pytest

from codegen import ops
from codegen.cuda.lower import emit
from codegen.errors import CodegenError
from codegen.export import device, nvcc, pack, sass, selection
from codegen.target import GPU_TARGETS

ALIKE = {"sm_80": ("sm_86", "sm_89"), "sm_90a": ()}
OPERATORS = [op for op in ops.all_ops() if ops.device_workloads(op)]
# What the tensor cores and the copies that run beside them are called by.
INTENDED = {"mma_sync": ("HMMA", "LDGSTS"), "wmma": ("HMMA", "LDGSTS"), "wgmma": ("HGMMA", "UTMALDG")}


def leaves(op, target):
    """What ships of an operator, by what it is made from: (kernel, leaf)."""
    return {
        (kernel.workload.key, kernel.space, *sorted(kernel.knobs.items()), launch.name): (kernel, launch)
        for kernel in selection.kernels([GPU_TARGETS[target]])
        if kernel.workload.op == op
        for launch in device.launches(kernel)
    }


def test_the_groups_hold_every_target():
    assert {*ALIKE, *(name for names in ALIKE.values() for name in names)} == {*GPU_TARGETS}


@pytest.mark.parametrize("target", ALIKE)
@pytest.mark.parametrize("op", OPERATORS)
def test_what_ships_does_not_spill_and_uses_the_intended_instructions(op, target, tmp_path):
    wrong, others = [], {other: leaves(op, other) for other in ALIKE[target]}
    for choice, (kernel, launch) in leaves(op, target).items():
        alike = [other for other, chosen in others.items() if chosen.pop(choice, None)]
        wrong += problems(kernel, launch, target, alike, tmp_path)
    for other, chosen in others.items():  # other choices than for ``target``
        for kernel, launch in chosen.values():
            wrong += problems(kernel, launch, other, [], tmp_path)
    assert not wrong, "\n".join(wrong)


def problems(kernel, launch, target, alike, folder):
    """Compiles one source for all of these. The reasons for which it may not ship."""
    path = folder / f"{launch.symbol}.cu"
    source = emit(launch, GPU_TARGETS[target])
    path.write_text(source.text)
    made = path.with_suffix(".fatbin")
    usages = nvcc.compile_source(path, made, target, [pack.abi_header().parent], alike)
    assert {usage.architecture for usage in usages} == {target, *alike}
    found = []
    for usage in usages:
        try:
            nvcc.refuse_spills([usage], f"{kernel.name} on {usage.architecture}")
        except CodegenError as error:
            found.append(str(error))
    if kernel.driver == "cuda_gemm":
        for architecture in (target, *alike):
            kinds = sass.kinds(sass.disassemble(made, architecture)[source.launches[0].name])
            found += [
                f"{kernel.name}: no {kind} on {architecture}" for kind in INTENDED[kernel.space] if not kinds[kind]
            ]
    return found
