"""What a line of a record file holds."""

from __future__ import annotations

from typing import Any

FORMAT = 1
STATUSES = ("ok", "wrong", "crashed", "hung", "exhausted", "failed")

_seconds = {"type": "number", "exclusiveMinimum": 0}
_size = {"type": "integer", "minimum": 1}
_text = {"type": "string", "minLength": 1}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A trial: a candidate that was built, checked and timed, or why it was not",
    "type": "object",
    "required": [
        "format",
        "workload",
        "target",
        "space",
        "knobs",
        "status",
        "machine",
        "date",
        "seed",
        "strategy",
        "trial",
    ],
    "properties": {
        "format": {"const": FORMAT},
        "workload": {"type": "string", "pattern": "^[a-z_][a-z0-9_]*\\(.*\\)$"},
        "target": _text,
        "space": _text,
        "knobs": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "integer"}},
        "status": {"enum": list(STATUSES)},
        "reason": {"type": "string"},
        "plan": {"type": ["string", "null"], "pattern": "^[0-9a-f]+$"},
        "ratios": {"type": "array", "items": {"type": ["number", "null"]}},
        "seconds": _seconds,
        "aten_seconds": _seconds,
        "points": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["sizes", "threads", "seconds", "aten_seconds"],
                "properties": {
                    "sizes": {"type": "object", "additionalProperties": _size},
                    "layout": _text,
                    "threads": _size,
                    "seconds": _seconds,
                    "aten_seconds": _seconds,
                },
                "additionalProperties": False,
            },
        },
        "spread": {"type": "number", "minimum": 0},
        "noisy": {"type": "boolean"},
        "workspace_bytes": {"type": "integer", "minimum": 0},
        "code_bytes": {"type": "integer", "minimum": 0},
        "joules": {"type": "number", "exclusiveMinimum": 0},
        "error": {"type": "number", "minimum": 0},
        "aten_error": {"type": "number", "minimum": 0},
        "machine": {
            "type": "object",
            "required": ["cpu", "threads", "torch", "tvm"],
            "properties": {
                "cpu": {"type": "string"},
                "threads": _size,
                "torch": _text,
                "tvm": _text,
                "gpu": _text,  # by its driver's name, where the target is one
                "cuda": _text,
                "driver": _text,
            },
        },
        "date": {"type": "string", "pattern": "^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ$"},
        "seed": {"type": "integer"},
        "strategy": _text,
        "trial": {"type": "integer", "minimum": 0},
    },
    "additionalProperties": False,
    "if": {"properties": {"status": {"const": "ok"}}},
    "then": {"required": ["seconds", "aten_seconds", "error", "aten_error"]},
    "else": {"required": ["reason"]},
}
