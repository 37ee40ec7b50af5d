"""``make gpu-check``: what the exported kernels are worth on this machine's GPU, in ten minutes. No TVM, no network.

Exit status: 0, all that ran was right; 1, a kernel or a test failed; 2, the batch can't be used; 3, there is no GPU;
4, nvcc, a C++ compiler, or a torch that can use the GPU is missing; 5, no kernel of the batch is for this GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu import parts, preflight, table
from benchmarks.gpu.build import Builds, Extension, cores
from benchmarks.gpu.packs import Pack
from benchmarks.gpu.preflight import Unable
from benchmarks.gpu.process import Client
from benchmarks.gpu.session import PARTS, Budget, Session
from codegen.errors import CodegenError
from codegen.measure import device_files

#: Parts that can fail.
CHECKS = ("calls", "tests", "sanitizer")


def _cpu() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.machine()


def _say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def _opened(args: argparse.Namespace) -> Iterator[tuple[Session, Client]]:
    """The session on this card, and its worker."""
    emulated = args.device == "emulated"
    targets = device_files.targets(args.directory)
    every = device_files.requests(args.directory)
    versions = {"torch": "emulated"} if emulated else preflight.check()
    client = Client(args.device, args.directory)
    try:
        budget = Budget(args.minutes)
        card = client.ask({"what": "card"}, 120.0)
        if card["status"] != "ok":
            raise Unable(preflight.LACKING, f"the GPU can't be used: {card['reason']}")
        about = card["about"]
        major, minor = about["capability"]
        suiting = [n for n, t in targets.items() if device_files.suits((major, minor), n, t)]
        here = max(suiting, key=lambda n: targets[n]["capability"], default=None)
        here = args.target or (next(iter(targets)) if emulated else here)
        requests = [r for r in every.values() if r.target == here]
        if not requests:
            raise Unable(
                preflight.NO_KERNELS,
                f"{about['gpu']} has compute capability {major}.{minor}; the kernels here are for {', '.join(targets)}",
            )
        machine = {"cpu": _cpu(), "threads": 1, **versions, **{k: about[k] for k in ("gpu",) if k in about}}
        session = Session(args.directory, args.device, budget, machine, requests)
        session.keep_part("card", {"about": about, "peaks": card["peaks"]})
        yield session, client
    finally:
        client.close()


def run(args: argparse.Namespace) -> int:
    """All parts that were asked for, then the table; an interruption leads there, too."""
    wanted = [name for name in PARTS if name in (args.parts or PARTS)]
    with _opened(args) as (session, client):
        _say(f"{session.machine['gpu']}: {len(session.requests)} kernels, {args.minutes:g} minutes")
        builds = Builds(args.device, args.directory, args.jobs)
        through = args.device == "cuda" and {"calls", "tests"} & {*wanted}
        extension = Extension(args.directory, args.jobs) if through else None
        pack = Pack(args.directory, session.requests[0].target, args.jobs) if through else None
        try:
            builds.start(parts.in_order(session.requests))
            left = builds.wait(session.budget.left("build")) if "build" in wanted else 0
            _say(
                f"compiled in {session.budget.spent():.0f} s" + (f", {left} kernels are still to come" if left else "")
            )
            if "time" in wanted:
                parts.time_shipped(session, client, builds, _say)
            if extension is not None and pack is not None and "calls" in wanted:
                parts.calls(session, extension, pack, _say)
            if extension is not None and pack is not None and "tests" in wanted:
                parts.tests(session, extension, pack, _say)
            if "sanitizer" in wanted and args.device == "cuda":
                parts.sanitizer(session, builds, _say)
            if "tune" in wanted:
                parts.tune(session, client, builds, _say)
            if "plan" in wanted:
                parts.plan(session, client, builds, _say)
            if "inductor" in wanted and args.device == "cuda":
                parts.inductor(session, client, builds, _say)
        except KeyboardInterrupt:
            _say("interrupted; what was measured is kept")
        finally:
            builds.close()
            for background in filter(None, (extension, pack)):
                background.close()
        text = "\n".join(table.lines(session))
        session.path.with_suffix(".txt").write_text(text + "\n")
        _say(f"\n{text}\n\nresults: {session.path} (bring that folder back; tvmops-codegen measure import)")
        return int(failed(session))


def failed(session: Session) -> bool:
    """Whether something was wrong: a kernel that ships, a test, or what the sanitizer saw."""
    kernels = any(session.known.get(r.id, {"status": "ok"})["status"] != "ok" for r in session.shipped)
    return kernels or any(session.parts.get(n, {}).get("status") in ("failed", "hung") for n in CHECKS)


def main(arguments: list[str] | None = None, root: Path | None = None) -> int:
    """The command line. Returns the exit status, see above."""
    parser = argparse.ArgumentParser(
        prog="gpu_check.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path, nargs="?", default=root, help="what 'make gpu-export' wrote")
    parser.add_argument("--minutes", type=float, default=10.0, help="that all may take together (%(default)g)")
    parser.add_argument("--jobs", type=int, default=cores(), help="compilers at a time (%(default)d)")
    parser.add_argument("--parts", type=lambda t: t.split(","), metavar="A,B", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--target", help="whose kernels are looked at (the best that the GPU runs)")
    parser.add_argument(
        "--device", choices=("cuda", "emulated"), default="cuda", help="emulated: for tests, on the CPU"
    )
    args = parser.parse_args(arguments)
    try:
        unknown = [name for name in args.parts or () if name not in PARTS]
        if unknown:
            raise CodegenError(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
        if args.device == "cuda":
            preflight.check()  # before all else: most machines have no GPU
        args.directory = (args.directory or _here()).resolve()
        return run(args)
    except Unable as error:
        print(error, file=sys.stderr)
        return error.status
    except CodegenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _here() -> Path:
    for path in (Path("."), Path("build/gpu-check")):
        if device_files.is_device_batch(path):
            return path
    raise CodegenError("there are no kernels here: 'make gpu-export' writes them, on a machine with TVM")


if __name__ == "__main__":
    sys.exit(main())
