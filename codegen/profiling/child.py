"""Runs a model and looks at its operators. A process of its own, without TVM: ``python -m codegen.profiling.child``."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tvmops
from tvmops import _C
from tvmops._calibrate import times

from ..errors import CodegenError
from ..worker import serve
from .calls import workload_of

PASSES = 5
# Rounds of the comparison of whole models, and seconds for each model in each.
ROUNDS = 9
SECONDS = 0.1

Call = tuple[str, str | None]  # the operator's name, and the key of its workload


def load(spec: str) -> Callable[[], Any]:
    """The function that ``PATH.py:FUNCTION`` or ``package.module:FUNCTION`` names.

    Raises:
        CodegenError: there is no such file, module or function, or its module can't be imported.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise CodegenError(f"not a model: {spec!r} (expected PATH.py:FUNCTION or package.module:FUNCTION)")
    sys.path.insert(0, os.getcwd())
    try:
        if place.endswith(".py"):
            path = Path(place).resolve()
            if not path.is_file():
                raise CodegenError(f"there is no file {place}")
            sys.path.insert(0, str(path.parent))  # as if it were run
            found = importlib.util.spec_from_file_location(path.stem, path)
            assert found is not None
            assert found.loader is not None
            module = importlib.util.module_from_spec(found)
            sys.modules[path.stem] = module
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except CodegenError:
        raise
    except ModuleNotFoundError as error:
        raise CodegenError(f"{place} can't be imported: there is no module {error.name!r}") from None
    except Exception as error:
        raise CodegenError(f"{place} can't be imported: {_said(error)}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise CodegenError(f"{place} has no function {name!r}")
    return function


def make(spec: str) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The model of a spec, and the arguments to call it with.

    Raises:
        CodegenError: the function can't be found or raises, or what it returns is not a model with its inputs.
    """
    function = load(spec)
    torch.manual_seed(0)
    try:
        made = function()
    except Exception as error:
        raise CodegenError(f"{spec} raised {_said(error)}") from None
    wrong = f"{spec} must return (model, args) or (model, args, kwargs)"
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise CodegenError(f"{wrong}, not {_described(made)}")
    model, args, kwargs = (*made, {})[:3]
    if not callable(model):
        raise CodegenError(f"{wrong}, where model can be called, not {_described(model)}")
    if isinstance(args, torch.Tensor):
        args = (args,)
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise CodegenError(f"{wrong}, where args is a tuple and kwargs a mapping, not {_described(made)}")
    return model, tuple(args), dict(kwargs)


def converted(model: Callable[..., Any]) -> tuple[Callable[..., Any], list[str]]:
    """A copy of a model with the modules of tvmops in place of those of torch, and what was replaced.

    What is not a module is left as it is: it may call tvmops itself.
    """
    if not isinstance(model, torch.nn.Module):
        return model, []
    ours = copy.deepcopy(model)
    if type(ours) in tvmops.nn.replacing.COUNTERPARTS:
        before, ours = repr(ours), tvmops.nn.counterpart(ours)
        return ours, [f"{before} -> {ours!r}"]
    return ours, [f"{r.name}: {r.before} -> {r.after}" for r in tvmops.nn.replace(ours)]


class _Listener(TorchDispatchMode):
    """Times every operator that is called; the fast calls of tvmops come through the dispatcher while it is on."""

    def __init__(self, *, explain: bool = False) -> None:
        super().__init__()
        self.seconds: defaultdict[Call, float] = defaultdict(float)
        self.calls: defaultdict[Call, int] = defaultdict(int)
        self.served: defaultdict[Call, list[tuple[str | None, str]]] = defaultdict(list)
        self._explain = explain

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = f"{func.namespace}.{func._schema.name.partition('::')[2]}"
        workload = workload_of(name, args, kwargs)
        call = (name, workload.key if workload else None)
        if self._explain:
            _C.start_recording()
        try:
            start = time.perf_counter()
            result = func(*args, **(kwargs or {}))
            self.seconds[call] += time.perf_counter() - start
        finally:
            taken = _C.stop_recording() if self._explain else []
        self.calls[call] += 1
        self.served[call] += [(kernel or None, reason) for _, _, kernel, _, reason in taken[:1]]
        return result


def profile(request: Mapping[str, Any]) -> dict[str, Any]:
    """The operators of a model, after its modules were replaced: see :class:`codegen.profiling.Profile`.

    Raises:
        CodegenError: the model can't be made, or raises.
    """
    model, args, kwargs = make(request["model"])
    ours, replaced = converted(model)
    torch.set_num_threads(request["threads"])
    with torch.inference_mode():
        _run(request["model"], ours, args, kwargs)  # packs weights, fills caches
        with _Listener(explain=True) as first:
            _run(request["model"], ours, args, kwargs)
        passes = []
        for _ in range(PASSES):
            with _Listener() as listener:
                _run(request["model"], ours, args, kwargs)
            passes.append(listener.seconds)
    entries = []
    for call, count in first.calls.items():
        served = [kernel for kernel, _ in first.served[call] if kernel]
        reasons = [reason for kernel, reason in first.served[call] if not kernel]
        entries.append(
            {
                "op": call[0],
                "workload": call[1],
                "calls": count,
                "seconds": statistics.median(p[call] for p in passes),
                "kernel": max(served, key=served.count) if served else None,
                "served": len(served),
                "reason": reasons[0] if reasons else "",
            }
        )
    return {"status": "ok", "entries": entries, "replaced": replaced}


def compare(request: Mapping[str, Any]) -> dict[str, Any]:
    """Medians of the seconds of a call, in turns: of the model, of its copy on tvmops with the pack loaded.

    Raises:
        CodegenError: the model can't be made, or raises.
    """
    model, args, kwargs = make(request["model"])
    ours, _ = converted(model)
    torch.set_num_threads(request["threads"])
    tvmops.load_pack(request["pack"])
    with torch.inference_mode():
        _run(request["model"], ours, args, kwargs)
        _run(request["model"], model, args, kwargs)
        calls = [lambda: ours(*args, **kwargs), lambda: model(*args, **kwargs)]
        rounds = [times(calls, SECONDS) for _ in range(ROUNDS)]
        served = tvmops.explain(ours, *args, **kwargs)
    mine, its = (statistics.median(r[i] for r in rounds) for i in (0, 1))
    packed = {k["name"] for k in _C.kernels() if k["pack"] == request["pack"]}
    from_pack = sum(d.kernel in packed for d in served)
    return {"status": "ok", "seconds": mine, "torch_seconds": its, "calls": len(served), "from_pack": from_pack}


def _run(spec: str, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        model(*args, **kwargs)
    except Exception as error:
        raise CodegenError(f"the model of {spec} raised {_said(error)}") from None


def _said(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    where = inspect.trace()[-1]
    place = "" if where.filename == __file__ else f" ({where.filename}:{where.lineno})"
    return f"{type(error).__name__}: {first}{place}"


def _described(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(v).__name__ for v in value) or 'nothing'}"
    return f"a {type(value).__name__}"


def _answer(request: dict[str, Any]) -> Mapping[str, Any]:
    try:
        return {"profile": profile, "compare": compare}[request["what"]](request)
    except CodegenError as error:
        return {"status": "refused", "reason": str(error)}


if __name__ == "__main__":
    serve(_answer)
