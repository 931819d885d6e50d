"""Bodies without a user's input_fn and output_fn: no pickles, a status for each type that is not read or written."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import io
import json
import re
import sys
import uuid
from typing import Any

import numpy
import pytest
import scipy.sparse

from container.hooks.user_code.content.accept import Accept
from container.hooks.user_code.content.decoding import decode
from container.hooks.user_code.content.encoding import encode, to_json
from container.hooks.user_code.hook import Convention, HookError

SAGEMAKER, TOOLKIT, ENDPOINTS = Convention.SAGEMAKER, Convention.HUGGING_FACE, Convention.ENDPOINTS
NPY = "application/x-npy"


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("convention", [SAGEMAKER, TOOLKIT])
@pytest.mark.parametrize("value", [[42, 6, 9], [42.0, 6.0], ["42", "6"], [[1, 2], [3, 4]]])
def test_npy_arrays_are_read(convention: Convention, value: Any) -> None:
    found = decode(npy(numpy.array(value)), NPY, convention)
    numpy.testing.assert_equal(found, numpy.array(value))


class Harm:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("import sys; sys.modules['harm_was_done'] = sys",))


@pytest.mark.parametrize("convention", [SAGEMAKER, TOOLKIT])
@pytest.mark.parametrize("value", [numpy.array({"a": 1}), numpy.array([Harm()], dtype=object)])
def test_npy_objects_are_never_unpickled(convention: Convention, value: Any) -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be loaded when allow_pickle=False"):
        decode(npy(value), NPY, convention)
    assert "harm_was_done" not in sys.modules


def test_a_bare_pickle_is_no_array() -> None:
    with pytest.raises(ValueError, match="pickle"):
        decode(b"\x80\x04K\x01.", NPY, SAGEMAKER)


@pytest.mark.parametrize("made", [scipy.sparse.csc_matrix, scipy.sparse.csr_matrix, scipy.sparse.coo_matrix])
def test_sparse_matrices_are_read(made: Any) -> None:
    buffer = io.BytesIO()
    scipy.sparse.save_npz(buffer, made(numpy.array([[0, 0, 3], [4, 0, 0]])))
    numpy.testing.assert_equal(decode(buffer.getvalue(), "application/x-npz", SAGEMAKER).toarray()[1], [4, 0, 0])


@pytest.mark.parametrize(
    ("convention", "content_type"),
    [
        (SAGEMAKER, "application/octet-stream"),
        (SAGEMAKER, "image/png"),
        (TOOLKIT, "application/x-npz"),
        (TOOLKIT, "text/plain"),
        (ENDPOINTS, "text/csv"),
        (ENDPOINTS, NPY),
    ],
)
def test_other_types_are_415(convention: Convention, content_type: str) -> None:
    with pytest.raises(
        HookError, match=f"{content_type} is not supported without input_fn; application/json,"
    ) as caught:
        decode(b"", content_type, convention)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("convention", "content_type", "module", "package"),
    [
        (TOOLKIT, "image/png", "PIL", "pillow"),
        (ENDPOINTS, "image/png", "PIL", "pillow"),
        (SAGEMAKER, "application/x-npz", "scipy.sparse", "scipy"),
    ],
)
def test_some_types_need_a_package_of_the_hook(
    convention: Convention, content_type: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HookError, match=rf"need the package {package} in requirements\.txt") as caught:
        decode(b"", content_type, convention)
    assert caught.value.status == 415


@pytest.mark.parametrize("content_type", ["audio/flac", "audio/x-wav", "audio/AMR", "audio/webm;codecs=opus"])
def test_sound_is_handed_over(content_type: str) -> None:
    assert decode(b"abc", content_type, ENDPOINTS) == {"inputs": b"abc"}


class Tensor:
    def tolist(self) -> list[int]:
        return [1, 2]


class Colour(enum.Enum):
    RED, BLUE = "red", ("b",)


@dataclasses.dataclass
class Found:
    name: str
    scores: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": numpy.array([1, 0.5])}, b'{"a":[1.0,0.5]}'),
        ([numpy.int64(1), numpy.float32(0.5)], b"[1,0.5]"),
        (Tensor(), b"[1,2]"),
        ({"at": datetime.datetime(2012, 8, 8, 15, 30)}, b'{"at":"2012-08-08 15:30:00"}'),
        ({42: {"6": 9.0}}, b'{"42":{"6":9.0}}'),
        ([datetime.date(2012, 8, 8), uuid.UUID(int=1)], b'["2012-08-08","00000000-0000-0000-0000-000000000001"]'),
        ({"a": range(2), "b": {3}, "c": {1: 2}.keys()}, b'{"a":[0,1],"b":[3],"c":[1]}'),
        ([Colour.RED, Colour.BLUE], b'["red",["b"]]'),
        ({"best": Found("a", [0.5])}, b'{"best":{"name":"a","scores":[0.5]}}'),
        (Found("a", Found("b", [])), b'{"name":"a","scores":{"name":"b","scores":[]}}'),
    ],
)
def test_json_is_written_of_arrays_and_dates(value: Any, expected: bytes) -> None:
    assert to_json(value) == expected


def test_what_has_no_json_is_said() -> None:
    with pytest.raises(TypeError, match="function has no JSON"):
        to_json([lambda: 3])
    with pytest.raises(TypeError, match="type has no JSON"):
        to_json(Found)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), "result"),
        ({"a": [1.0, {"b": float("-inf")}]}, 'result["a"][1]["b"]'),
        ([numpy.array([[0.0, numpy.nan]])], "result[0][0][1]"),
        (({"a": 1},), None),
    ],
)
def test_what_is_no_number_is_found(value: Any, place: str | None) -> None:
    if place is None:
        to_json(value)
        return
    with pytest.raises(ValueError, match=rf": {re.escape(place)} is NaN or infinite$"):
        to_json(value)


@pytest.mark.parametrize(
    ("accept", "value", "expected"),
    [
        ("text/csv", [42, 6, 9], b"42\n6\n9\n"),
        ("text/csv", ["42", "6"], b"42\n6\n"),
        ("text/csv, application/json", [1.5], b"1.5\n"),
        ("unsupported/type, text/csv", [1], b"1\n"),
        ("text/*", [1], b"1\n"),
        ("image/*, */*", [1], b"[1]"),
        ("application/json;q=0, text/csv", [1], b"1\n"),
        ("TEXT/CSV; header=absent", [1], b"1\n"),
    ],
)
def test_the_first_type_that_can_be_written_is(accept: str, value: Any, expected: bytes) -> None:
    assert encode(value, Accept(accept, "application/json"), SAGEMAKER)[0] == expected


def test_an_array_of_the_answer_is_the_same_array() -> None:
    body, content_type = encode([[1, 2]], Accept(NPY, "application/json"), SAGEMAKER)
    assert content_type == NPY
    numpy.testing.assert_equal(numpy.load(io.BytesIO(body), allow_pickle=False), [[1, 2]])


@pytest.mark.parametrize(
    ("accept", "convention", "value", "message"),
    [
        ("text/csv", TOOLKIT, [1, 2], "CSV is written of dicts"),
        ("image/png", TOOLKIT, [1, 2], "image/png is written of an image of Pillow, not of list"),
    ],
)
def test_what_a_type_cannot_hold_is_said(accept: str, convention: Convention, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        encode(value, Accept(accept, "application/json"), convention)


def test_an_image_is_written() -> None:
    """As of Pillow, which is not here: the methods that are asked for."""

    class Image:
        getpixel = None

        def save(self, out: io.BytesIO, format: str) -> None:
            out.write(format.encode())

    assert encode(Image(), Accept("image/jpeg", ""), ENDPOINTS) == (b"JPEG", "image/jpeg")
    assert json.loads(to_json({"a": Image()})) == {"a": "UE5H"}
