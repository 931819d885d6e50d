"""The default `output_fn` of each convention: Python objects become a body of a type that the client accepts."""

from __future__ import annotations

import base64
import csv
import dataclasses
import datetime
import enum
import io
import json
import math
import uuid
from collections.abc import KeysView, ValuesView
from pathlib import PurePath
from typing import Any

from sagemaker_inference import content_types

from container.hooks.user_code.content.accept import Accept
from container.hooks.user_code.content.decoding import IMAGES
from container.hooks.user_code.failures import UNSUPPORTED_ACCEPT
from container.hooks.user_code.hook import Convention, HookError

_ARRAYS = (content_types.JSON, content_types.CSV, content_types.NPY)
_SUPPORTED = {
    Convention.SAGEMAKER: _ARRAYS,
    Convention.HUGGING_FACE: (*_ARRAYS, *IMAGES),
    Convention.ENDPOINTS: (content_types.JSON, *IMAGES),
}


def encode(prediction: Any, accept: Accept, convention: Convention) -> tuple[bytes, str]:
    """A body and its type. Raises HookError 406 if the convention's default writes no type that `accept` names."""
    supported = _SUPPORTED[convention]
    name = accept.choose(supported)
    if name is None:
        raise HookError(
            UNSUPPORTED_ACCEPT,
            f"Accept {accept.value} is not supported without output_fn; supported: {', '.join(supported)}",
        )
    if name == content_types.JSON:
        return to_json(prediction), name
    if name in IMAGES:
        return _image(prediction, name), name
    if name == content_types.CSV and convention is not Convention.SAGEMAKER:
        return _rows(prediction).encode(), name
    return _array(prediction, name), name


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8. Arrays and tensors become lists, dates text, images PNG in base64, as in the toolkit.

    Dataclasses and pydantic's models become objects, sets and ranges lists, UUIDs, paths and enums text or their value.
    ValueError for NaN and infinities, which JSON does not have, with their place; TypeError for what has no JSON.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    except ValueError as exc:
        place = _place_of_no_number(value)
        if place is None:
            raise
        raise ValueError(f"Out of range float values are not JSON compliant: result{place} is NaN or infinite") from exc
    return text.encode()


def _place_of_no_number(value: Any) -> str | None:
    """Where NaN or an infinity is, such as `["scores"][2]`; None if there is none or it is deep within an object."""
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    if isinstance(value, dict):
        parts = [(f'["{key}"]', each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"[{i}]", each) for i, each in enumerate(value)]
    elif hasattr(value, "tolist"):
        return _place_of_no_number(value.tolist())
    else:
        return None
    for name, each in parts:
        place = _place_of_no_number(each)
        if place is not None:
            return (name + place)[:200]
    return None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's and torch's arrays and numbers
        return value.tolist()
    if isinstance(value, datetime.date | datetime.time | uuid.UUID | PurePath):
        return str(value)
    if isinstance(value, set | frozenset | range | KeysView | ValuesView):
        return list(value)
    if isinstance(value, enum.Enum):
        return value.value
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "save") and hasattr(value, "getpixel"):
        return base64.b64encode(_image(value, "image/png")).decode()
    raise TypeError(f"{type(value).__name__} has no JSON")


def _array(prediction: Any, name: str) -> bytes:
    """CSV or `.npy` by sagemaker-inference's own encoder."""
    from sagemaker_inference import encoder

    encoded = encoder.encode(prediction, name)
    return encoded.encode() if isinstance(encoded, str) else bytes(encoded)


def _rows(prediction: Any) -> str:
    """CSV of dicts, with a header line; one dict is one row. The toolkit would make rows of a dict's names."""
    rows = [prediction] if isinstance(prediction, dict) else list(prediction)
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise TypeError("CSV is written of dicts; write an output_fn for other results")
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _image(image: Any, name: str) -> bytes:
    if not hasattr(image, "save"):
        raise TypeError(f"{name} is written of an image of Pillow, not of {type(image).__name__}")
    with io.BytesIO() as out:
        image.save(out, format="PNG" if name == "image/x-image" else name.rpartition("/")[2].upper())
        return out.getvalue()
