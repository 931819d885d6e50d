"""Rules between fields, which types cannot express; for the OpenAPI document. `parameter_checks` applies them."""

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

# Of a whole answer: several sequences take sampling and no seed.
WHOLE: dict[str, Any] = {"properties": {"parameters": _WHOLE_PARAMETERS}}
# Of a stream: one sequence, and no tokens of the prompt.
STREAM: dict[str, Any] = {"properties": {"parameters": _STREAM_PARAMETERS}}
# Where `stream` decides.
COMPAT: dict[str, Any] = {
    "anyOf": [
        {"properties": {"stream": {"const": False}, "parameters": _WHOLE_PARAMETERS}},
        {"required": ["stream"], "properties": {"stream": {"const": True}, "parameters": _STREAM_PARAMETERS}},
    ]
}
