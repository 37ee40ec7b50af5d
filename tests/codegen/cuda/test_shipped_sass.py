"""Every CUDA kernel that ships, compiled for every architecture: no spills, and the instructions it was written for.

The architectures 8.x mostly have the same choices. Their sources then differ in the number of blocks at most, and one
is compiled for all.
"""

from collections import defaultdict

import pytest

from codegen.cuda.lower import emit
from codegen.errors import CodegenError
from codegen.export import device, nvcc, pack, sass, selection
from codegen.target import GPU_TARGETS
from tests.codegen.cuda.one_source import together

ALIKE = [("sm_80", "sm_86", "sm_89"), ("sm_90a",)]
AT_ONCE = 8  # kernels of a test
# What the tensor cores and the copies that run beside them are called by.
INTENDED = {"mma_sync": ("HMMA", "LDGSTS"), "wmma": ("HMMA", "LDGSTS"), "wgmma": ("HGMMA", "UTMALDG")}


def shipped():
    """What ships, by a test's name: the targets whose choices are the same, (kernel, leaf) for the first of them."""
    found = {}
    for names in ALIKE:
        by_choice = defaultdict(dict)
        for target in names:
            for kernel in selection.kernels([GPU_TARGETS[target]]):
                for launch in device.launches(kernel):
                    choice = (kernel.workload.key, kernel.space, *sorted(kernel.knobs.items()), launch.name)
                    by_choice[choice][target] = kernel, launch
        groups = defaultdict(list)
        for of_targets in by_choice.values():
            kernel, launch = next(iter(of_targets.values()))
            groups[tuple(of_targets), kernel.space, kernel.workload.dtype].append((kernel, launch))
        for (targets, space, dtype), group in groups.items():
            for at in range(0, len(group), AT_ONCE):
                found[f"{'-'.join(targets)}-{space}-{dtype}-{at}"] = targets, group[at : at + AT_ONCE]
    return found


SHIPPED = shipped()


def test_all_that_ships_is_here():
    for target in GPU_TARGETS:
        here = {kernel.workload for targets, group in SHIPPED.values() if target in targets for kernel, _ in group}
        assert here == {kernel.workload for kernel in selection.kernels([GPU_TARGETS[target]])}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_does_not_spill_and_uses_the_intended_instructions(name, tmp_path):
    targets, group = SHIPPED[name]
    made = [emit(launch, GPU_TARGETS[targets[0]]) for _, launch in group]
    wrong = []
    for i, (text, which) in enumerate(together([source.text for source in made])):
        path = tmp_path / f"{i}.cu"
        path.write_text(text)
        output = path.with_suffix(".fatbin")
        usages = nvcc.compile_source(path, output, targets[0], [pack.abi_header().parent], targets[1:])
        launches = [launch.name for j in which for launch in made[j].launches]
        assert sorted((u.function, u.architecture) for u in usages) == sorted((n, t) for n in launches for t in targets)
        for usage in usages:
            try:
                nvcc.refuse_spills([usage], usage.architecture)
            except CodegenError as error:
                wrong.append(str(error))
        if group[0][0].driver == "cuda_gemm":
            for target in targets:
                code = sass.disassemble(output, target)
                for j in which:
                    kinds, kernel = sass.kinds(code[made[j].launches[0].name]), group[j][0]
                    wrong += [
                        f"{kernel.name}: no {kind} on {target}" for kind in INTENDED[kernel.space] if not kinds[kind]
                    ]
    assert not wrong, "\n".join(wrong)
