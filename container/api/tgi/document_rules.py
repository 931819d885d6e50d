"""Rules between fields, which types cannot express: shown in the OpenAPI document, applied by `parameter_checks`."""

from __future__ import annotations

from typing import Any

_ONE = {"properties": {"best_of": {"enum": [None, 0, 1]}}}
_SEVERAL = {
    "required": ["best_of", "do_sample"],
    "properties": {
        "best_of": {"type": "integer", "minimum": 2},
        "do_sample": {"const": True},
        "seed": {"type": "null"},
    },
}
_WHOLE_PARAMETERS = {"anyOf": [_ONE, _SEVERAL]}
_STREAM_PARAMETERS = {
    "properties": {"best_of": {"enum": [None, 1]}, "decoder_input_details": {"const": False}},
}

# A whole answer: several sequences need sampling and allow no seed.
WHOLE: dict[str, Any] = {"properties": {"parameters": _WHOLE_PARAMETERS}}
# A stream: one sequence, no prompt tokens.
STREAM: dict[str, Any] = {"properties": {"parameters": _STREAM_PARAMETERS}}
# `stream` decides which of the two applies.
COMPAT: dict[str, Any] = {
    "anyOf": [
        {"properties": {"stream": {"const": False}, "parameters": _WHOLE_PARAMETERS}},
        {"required": ["stream"], "properties": {"stream": {"const": True}, "parameters": _STREAM_PARAMETERS}},
    ]
}
