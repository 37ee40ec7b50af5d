"""``python -m benchmarks.gpu.sanitized DIR SECONDS ID...``: checks kernels once, to be run under compute-sanitizer."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu import cases
from benchmarks.gpu.devices import make
from benchmarks.gpu.kernel import Kernel
from codegen.measure import device_files


def main() -> int:
    """Runs the first checks of each kernel until the seconds are over; the sanitizer judges."""
    directory, seconds, names = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    device, every = make("cuda"), device_files.requests(directory)
    end, count = time.monotonic() + seconds, 0
    for name in names:
        if time.monotonic() > end:
            break
        request = every[name]
        kernel = Kernel(directory / "build" / request.target / f"{name}.so", request.symbol, device)
        for point in cases.checks(request)[:3]:
            with torch.inference_mode():
                problem = cases.problem(request, point, request.seed, device)
                kernel.bind(problem.buffers, problem.sizes, problem.params)()
                device.synchronize()
        count += 1
    print(f"{count} of {len(names)} kernels ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
