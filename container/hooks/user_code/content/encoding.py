"""The default `output_fn` of each convention: Python objects become a body of a type that the client accepts."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import json
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
            UNSUPPORTED_ACCEPT, f"Accept {accept.value} is not supported without output_fn; {supported} are"
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

    ValueError for NaN and infinities, which JSON does not have; TypeError for what has no JSON.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    return text.encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's and torch's arrays and numbers
        return value.tolist()
    if isinstance(value, datetime.datetime):
        return str(value)
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
