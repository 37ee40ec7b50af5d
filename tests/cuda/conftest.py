"""The pack of plain C, loaded once."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from .gpu import Pack, compile_pack

# A machine with a GPU may have no TVM.
WITH_TVM = ["test_exported.py", "test_exported_parts.py", "test_reductions.py"]
collect_ignore = [] if find_spec("tvm") else WITH_TVM


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Kernels for sm_80 and one for sm_90a; the device is 8.6."""
    return Pack(compile_pack(tmp_path_factory.mktemp("gpu")))
