"""``make gpu-export``: a directory to carry to a machine with a GPU, where ``gpu_check.py`` in it does the rest."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path

from benchmarks.gpu.packs import KERNELS
from codegen.errors import CodegenError
from codegen.export import device, nvcc, selection
from codegen.measure import device_batch
from codegen.measure.device_files import DeviceRequest
from codegen.target import GPU_TARGETS, find_gpu

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "build" / "gpu-check"
#: What travels beside the kernels: the extension's sources, its tests, and the code generator without its records.
CARRIED = ("benchmarks", "codegen", "csrc", "tests", "tvmops")
FILES = ("CMakeLists.txt", "LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml", "setup.py")
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "*.jsonl", "results")
SCRIPT = '''\
"""Checks and times the kernels in this directory on this machine's GPU; `python gpu_check.py --help` tells more."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.check import main  # noqa: E402

sys.exit(main(root=ROOT))
'''
ABOUT = """\
# Kernels to be checked and timed on a GPU

{count} kernels for {targets}. Needed here: an NVIDIA GPU, nvcc, a C++ compiler, Python 3.11 or later, PyTorch with CUDA
and NumPy. Neither TVM nor a network is.

```sh
python3 gpu_check.py              # at most ten minutes; --help tells the options
python3 gpu_check.py --minutes 3  # less
```

A second run goes on where the first ended. Results are in `results/`: a line of JSON for each kernel (`CARD.jsonl`) and
the table (`CARD.txt`). Bring that folder back into the directory that was exported, and there:

```sh
python -m codegen measure import DIR --records build/records
```
"""


def carry(out: Path) -> None:
    """Copies the sources that are needed there, in place of those of an earlier export."""
    for name in CARRIED:
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(ROOT / name, out / name, ignore=LEFT_BEHIND)
    for name in FILES:
        shutil.copyfile(ROOT / name, out / name)
    (out / "gpu_check.py").write_text(SCRIPT)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 where the arguments or the directory can't be used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.export", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT, help="the directory (%(default)s)")
    parser.add_argument("--target", action="append", help=f"repeatable: {', '.join(GPU_TARGETS)} (all)")
    parser.add_argument("--samples", type=int, default=4, help="candidates of each space of a workload (%(default)d)")
    parser.add_argument("--workload", default="", help="only those whose keys begin so")
    parser.add_argument("--seed", type=int, default=0, help="of the candidates and of the data (%(default)d)")
    parser.add_argument("--records", type=Path, default=ROOT / "build" / "records", help="what is known (%(default)s)")
    args = parser.parse_args(arguments)
    try:
        targets = [find_gpu(name) for name in args.target or GPU_TARGETS]
        out = args.out.resolve()
        if out.is_dir() and any(out.iterdir()) and not (out / "gpu_check.py").is_file():
            raise CodegenError(f"{out} is not empty, and was not made by this command")
        out.mkdir(parents=True, exist_ok=True)
        carry(out)
        chosen = device_batch.candidates(targets, args.samples, args.seed, args.records, args.workload)
        written = device_batch.export(out, chosen, args.seed, _report, compiled=_can_compile())
        kernels = [k for k in selection.kernels(targets, [args.records]) if k.workload.key.startswith(args.workload)]
        device.export(kernels, device.sources(kernels), out / KERNELS)
    except CodegenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = Counter(r.target for r in written)
    (out / "README.md").write_text(ABOUT.format(count=len(written), targets=", ".join(counts)))
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 2**20
    print(f"{out}: {', '.join(f'{n} for {t}' for t, n in counts.items())}; {size:.1f} MiB; see README.md there")
    return 0


def _can_compile() -> bool:
    try:
        nvcc.find()
    except CodegenError as error:
        print(f"no times are predicted: {error}", file=sys.stderr)
        return False
    return True


def _report(what: DeviceRequest | str) -> None:
    if isinstance(what, str):
        print(f"left out: {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
