"""The default `input_fn` of each convention: a body and its type become Python objects."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sagemaker_inference import content_types

from container.hooks.user_code.content import arrays
from container.hooks.user_code.content.accept import media_type
from container.hooks.user_code.failures import UNSUPPORTED_BODY
from container.hooks.user_code.hook import Convention, HookError

IMAGES = ("image/jpeg", "image/png", "image/tiff", "image/bmp", "image/gif", "image/webp", "image/x-image")
_TOOLKIT_AUDIO = ("audio/x-flac", "audio/mpeg", "audio/wave", "audio/ogg", "audio/x-audio")
_ENDPOINTS_AUDIO = (
    *("audio/x-flac", "audio/flac", "audio/mpeg", "audio/x-mpeg-3", "audio/wave", "audio/wav", "audio/x-wav"),
    *("audio/ogg", "audio/x-audio", "audio/webm", "audio/amr", "audio/amr-wb", "audio/amr-wb+", "audio/m4a"),
    "audio/x-m4a",
)
_CSV_COLUMNS = ("question", "context", "inputs")


def decode(body: str | bytes, content_type: str | None, convention: Convention) -> Any:
    """Python objects of a body. A body without a type is read as JSON, parameters of a type do not count.

    Raises HookError 415 for a type that the convention's default does not read, and ValueError for a bad body.
    """
    name = content_types.JSON if not content_type else media_type(content_type)
    decoder = _DECODERS[convention].get(name)
    if decoder is None:
        known = ", ".join(_DECODERS[convention])
        raise HookError(UNSUPPORTED_BODY, f"Content-Type {content_type} is not supported without input_fn; {known} are")
    return decoder(body)


def _text(body: str | bytes) -> str:
    return body if isinstance(body, str) else body.decode()


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)


def _rows(body: str | bytes) -> dict[str, Any]:
    """CSV with a header line, as the Hugging Face toolkit reads it: a column `inputs`, else whole rows."""
    text = _text(body)
    header = text.splitlines()[0].lower() if text.strip() else ""
    if not any(column in header for column in _CSV_COLUMNS):
        raise ValueError(f"CSV needs a header line with one of {', '.join(_CSV_COLUMNS)}")
    rows = list(csv.DictReader(io.StringIO(text)))
    return {"inputs": [row["inputs"] for row in rows] if rows and "inputs" in rows[0] else rows}


def _image(body: str | bytes) -> dict[str, Any]:
    """An RGB image of Pillow, which this server does not have, but a hook's requirements.txt may."""
    with _brought("images", "pillow"):
        from PIL import Image
    return {"inputs": Image.open(io.BytesIO(_bytes(body))).convert("RGB")}


def _matrix(body: str | bytes) -> Any:
    """A sparse matrix; scipy is in no image of ours (docs/decisions/0060-no-scipy-in-the-image.md)."""
    with _brought(content_types.NPZ, "scipy"):
        return arrays.matrix_from_npz(_bytes(body))


@contextmanager
def _brought(what: str, package: str) -> Iterator[None]:
    """Raise HookError 415 if a package is missing that a hook's requirements.txt may bring."""
    try:
        yield
    except ImportError as exc:
        raise HookError(UNSUPPORTED_BODY, f"{what} need the package {package} in requirements.txt") from exc


def _audio(body: str | bytes) -> dict[str, Any]:
    return {"inputs": _bytes(body)}


_SAGEMAKER: dict[str, Callable[[str | bytes], Any]] = {
    content_types.JSON: arrays.array_from_json,
    content_types.CSV: lambda body: arrays.array_from_csv(_text(body)),
    content_types.NPY: lambda body: arrays.array_from_npy(_bytes(body)),
    content_types.NPZ: _matrix,
}
_TOOLKIT: dict[str, Callable[[str | bytes], Any]] = {
    content_types.JSON: json.loads,
    content_types.CSV: _rows,
    content_types.NPY: _SAGEMAKER[content_types.NPY],
    **dict.fromkeys(IMAGES, _image),
    **dict.fromkeys(_TOOLKIT_AUDIO, _audio),
}
_ENDPOINTS: dict[str, Callable[[str | bytes], Any]] = {
    content_types.JSON: json.loads,
    "image/jpg": _image,
    **dict.fromkeys(IMAGES, _image),
    **dict.fromkeys(_ENDPOINTS_AUDIO, _audio),
}
_DECODERS = {
    Convention.SAGEMAKER: _SAGEMAKER,
    Convention.HUGGING_FACE: _TOOLKIT,
    Convention.ENDPOINTS: _ENDPOINTS,
}
