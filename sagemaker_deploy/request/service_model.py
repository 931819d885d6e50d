"""Checks requests against botocore's description of the SageMaker API, without a call.

botocore's validator checks types and required members. SageMaker also enforces the description's enumerations, patterns
and limits, but only when earlier resources already exist. All are checked here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.session
from botocore.validate import ParamValidator


def violations(service: str, operation: str, params: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each violation of the API's model in `params`; empty if there is none."""
    shape = _service_model(service).operation_model(operation).input_shape
    report = ParamValidator().validate(dict(params), shape)
    if report.has_errors():
        return str(report.generate_report()).splitlines()
    return list(_walk(shape, params, operation))


@functools.cache
def _service_model(service: str) -> Any:
    """Cached: parsing the JSON takes half a second."""
    return botocore.session.get_session().get_service_model(service)


def _walk(shape: Any, value: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _walk(shape.members[name], member, f"{path}.{name}")
    elif shape.type_name == "list":
        yield from _check_length(shape, value, path)
        for i, item in enumerate(value):
            yield from _walk(shape.member, item, f"{path}[{i}]")
    elif shape.type_name == "map":
        yield from _check_length(shape, value, path)
        for key, item in value.items():
            yield from _walk(shape.key, key, f"{path} key {key!r}")
            yield from _walk(shape.value, item, f"{path}.{key}")
    elif shape.type_name == "string":
        yield from _check_string(shape, value, path)
    elif shape.type_name in ("integer", "float", "long"):
        yield from _check_limit(shape, value, f"{path} = {value}")


def _check_string(shape: Any, value: str, path: str) -> Iterator[str]:
    yield from _check_length(shape, value, path)
    if shape.enum and value not in shape.enum:
        yield f"{path}: {value!r} is not one of SageMaker's {len(shape.enum)} values"
    pattern = shape.metadata.get("pattern")
    if pattern and value and not re.fullmatch(_portable(pattern), value):
        yield f"{path}: {value!r} does not match {pattern}"


def _portable(pattern: str) -> str:
    """Translate a Java pattern for `re`.

    Letters, separators and numbers become word, space and digit classes, which is close enough; surrogate pairs become
    the characters beyond U+FFFF.
    """
    classes = pattern.replace(r"\p{L}", r"\w").replace(r"\p{Z}", r"\s").replace(r"\p{N}", r"\d")
    classes = classes.replace(r"\p{Print}", r"[^\x00-\x1f\x7f]")
    return classes.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")


def _check_length(shape: Any, value: Any, path: str) -> Iterator[str]:
    yield from _check_limit(shape, len(value), f"{path} has length {len(value)}")


def _check_limit(shape: Any, value: float, what: str) -> Iterator[str]:
    lower, upper = shape.metadata.get("min"), shape.metadata.get("max")
    if upper is not None and value > upper:
        yield f"{what}; at most {upper}"
    if lower is not None and value < lower:
        yield f"{what}; at least {lower}"
