"""``python -m tvmops``: what is loaded, and calibration."""

from __future__ import annotations

import argparse
import math
import sys
import time


def _info(_: argparse.Namespace) -> int:
    import tvmops

    print(tvmops.show_config())
    return 0


def _kernels(_: argparse.Namespace) -> int:
    import tvmops

    rows = [("kernel", "driver", "plan", "state")]
    for k in tvmops.kernels():
        plan = k["plan"]
        share = f"{sum(p != 0 for p in plan)}/{len(plan)} sizes" if plan else "by rule of thumb"
        state = "serves" if k["serves"] else "shadowed" if k["shadowed"] else "usable" if k["usable"] else "other CPU"
        if k["gpu"]:  # which device is there is not asked: that would start CUDA
            state = "shadowed" if k["shadowed"] else "for a GPU"
            share = share if plan else "never timed"
        rows.append((k["name"], k["driver"], share, state))
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    import tvmops
    from tvmops import _calibrate

    start = time.monotonic()

    def progress(kernel: str, done: int, total: int) -> None:
        if done == total or sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(
                f"\r{kernel}: {done}/{total} measurements, {time.monotonic() - start:.0f} s", end=end, file=sys.stderr
            )

    try:
        verdicts = _calibrate.calibrate(progress, thorough=options.thorough)
    except OSError as error:
        print(f"tvmops: can't keep the verdicts: {error}", file=sys.stderr)
        return 1
    for name, verdict in verdicts.items():
        won = [r for p, r in zip(verdict.plan, verdict.ratios, strict=True) if p]
        mean = math.exp(sum(map(math.log, won)) / len(won)) if won else 1.0
        print(f"{name}: chosen at {len(won)} of {len(verdict.plan)} sizes, there {mean:.2f}x of ATen (geometric mean)")
    print(f"tvmops {tvmops.__version__}: kept in {_calibrate.cache_path() or 'no file (TVMOPS_CALIBRATION=off)'}")
    return 0


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tvmops", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("info", help="versions, CPU, targets, packs (the default)").set_defaults(run=_info)
    commands.add_parser("kernels", help="every kernel of every loaded pack").set_defaults(run=_kernels)
    told = "time the kernels of matrix products against ATen here and keep the verdicts"
    calibrate = commands.add_parser("calibrate", help=told)
    calibrate.add_argument("--thorough", action="store_true", help="measure both ends of every size bucket")
    calibrate.set_defaults(run=_calibrate)
    options = parser.parse_args()
    run = getattr(options, "run", _info)
    return int(run(options))


if __name__ == "__main__":
    sys.exit(main())
