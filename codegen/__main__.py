"""The command line of the offline stage: ``python -m codegen``, installed as ``tvmops-codegen``."""

from __future__ import annotations

import os

from .commands import app


def main() -> None:
    """The entry point of the console script."""
    # Nothing here computes with threads, and idle ones would disturb what the helpers measure.
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    app(prog_name="python -m codegen" if __package__ == "codegen" else "tvmops-codegen")


if __name__ == "__main__":
    main()
