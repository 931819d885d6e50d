"""Requests that two servers in a row might end at different bytes, and bodies that are cut. What follows one must never
be run, and what was cut must never be answered as if it were whole."""

from __future__ import annotations

import json

_BODY = json.dumps({"inputs": "hi", "parameters": {}}).encode()
# A request that would be answered with 200 if it were run.
GOOD = (
    b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    + b"Content-Length: %d\r\n\r\n" % len(_BODY)
    + _BODY
)


def _post(
    *headers: str | bytes, body: bytes = b"", line: bytes = b"POST /generate HTTP/1.1", end: bytes = b"\r\n"
) -> bytes:
    lines = [line, b"Host: x", b"Content-Type: application/json"]
    lines += [header if isinstance(header, bytes) else header.encode("latin-1") for header in headers]
    return end.join([*lines, b"", b""]) + body


_TE = "Transfer-Encoding: chunked"
_CL = f"Content-Length: {len(_BODY)}"
_CHUNK = b"%x\r\n%s\r\n" % (len(_BODY), _BODY)
# As long as what is read at a time: whoever asks for more has all of it, and then meets what is broken.
_FULL = _BODY.ljust(65_536)
_FULL_CHUNK = b"%x\r\n%s\r\n" % (len(_FULL), _FULL)
_END = b"0\r\n\r\n"

_LENGTHS = (
    "+5", "-5", "5 5", "5,5", "5, 6", "0x5", "5.0", "5e0", "", " ", "five", "5;", "\t5x", "\u0665",
    "1" * 30, "5\x0b", "00x",
)  # fmt: skip
_CODINGS = (
    "chunky", "chunked, identity", "identity, chunked, chunked", "chunked, chunked", "\x0bchunked", "chunked\x0b",
    "xchunked", "chunked;q=1", "'chunked'", "gzip", "gzip, x", "cow", "chunked, cow", "identity",
)  # fmt: skip
_CHUNKS: dict[str, bytes] = {
    "no size": b"\r\n" + _BODY + b"\r\n" + _END,
    "size that is no number": b"zz\r\n" + _BODY + b"\r\n" + _END,
    "negative size": b"-5\r\n" + _BODY + b"\r\n" + _END,
    "plus size": b"+5\r\n" + _BODY + b"\r\n" + _END,
    "0x size": b"0x5\r\n" + _BODY + b"\r\n" + _END,
    "size with an underscore": b"1_0\r\n" + _BODY + b"\r\n" + _END,
    "huge size": b"f" * 32 + b"\r\n" + _BODY + b"\r\n" + _END,
    "no end of a chunk": b"5\r\n" + _BODY + b"\r\n" + _END,
    "bare CR after the size": b"5\r" + _BODY + b"\r\n" + _END,
    "bare CR in an extension": b"5;a\rb\r\n" + _BODY[:5] + b"\r\n" + _END,
    "NUL in the size": b"5\0\r\n" + _BODY[:5] + b"\r\n" + _END,
    "space before the size": b" 5\r\n" + _BODY[:5] + b"\r\n" + _END,
}
# Behind a chunk that is a good body by itself: whoever takes what is broken for the end answers it.
_AFTER: dict[str, bytes] = {
    "no size": b"\r\n" + _END,
    "size that is no number": b"zz\r\n" + _BODY + b"\r\n" + _END,
    "negative size": b"-1\r\n" + _END,
    "size with a space behind": b"0 \r\n\r\n",
    "size in fullwidth digits": "\uff10".encode() + b"\r\n\r\n",
    "size of 20,000 digits": b"0" * 20_000 + b"\r\n\r\n",
    "bare LF after the size": b"0\n\n",
    "bare CR after the size": b"0\r\r",
    "no end of a chunk": b"1\r\n  " + _END,
    "LF as the end of a chunk": b"1\r\n \n" + _END,
    "CR as the end of a chunk": b"1\r\n \r" + _END,
    "more in a chunk than its size": b"1\r\n    \r\n" + _END,
    "extension without a name": b"0;=a\r\n\r\n",
    "extension without a value": b"0;a=\r\n\r\n",
    "extension with a space in it": b"0;a b\r\n\r\n",
    "extension with an open quote": b'0;a="b\r\n\r\n',
    "extension with NUL": b"0;a=\0\r\n\r\n",
    "extension with LF": b"0;a=b\nc\r\n\r\n",
    "extension with bare CR": b"0;a=b\rc\r\n\r\n",
    "extension of 20,000 characters": b"0;" + b"a" * 20_000 + b"\r\n\r\n",
    "trailer without a colon": b"0\r\nX-A\r\n\r\n",
    "trailer without a name": b"0\r\n: a\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX-A : a\r\n\r\n",
    "trailer with a space first": b"0\r\n X-A: a\r\n\r\n",
    "trailer with NUL": b"0\r\nX-A: \0\r\n\r\n",
    "trailer with bare LF": b"0\r\nX-A: a\nX-B: b\r\n\r\n",
    "trailer with bare CR": b"0\r\nX-A: a\rX-B: b\r\n\r\n",
    "trailers that do not end": b"0\r\n" + b"X-A: a\r\n" * 50_000,
}
_HEADS: dict[str, bytes] = {
    "length and chunks": _post(_TE, _CL, body=_END),
    "chunks and length": _post(_CL, _TE, body=_END),
    "two different lengths": _post("Content-Length: 5", "Content-Length: 6", body=_BODY),
    "space before the colon": _post("Transfer-Encoding : chunked", body=_END),
    "tab before the colon": _post("Content-Length\t: 5", body=_BODY),
    "folded coding": _post(b"Transfer-Encoding:\r\n chunked", body=_END),
    "folded length": _post(b"Content-Length:\r\n\t5", body=_BODY),
    "NUL in a name": _post(b"Content\0-Length: 5", body=_BODY),
    "NUL in a value": _post(b"X-A: a\0b", _CL, body=_BODY),
    "CR in a value": _post(b"X-A: a\rContent-Length: 5", _CL, body=_BODY),
    "no name": _post(b": x", _CL, body=_BODY),
    "no colon": _post(b"Transfer-Encoding chunked", _CL, body=_BODY),
    "space first": _post(b" X-A: a", _CL, body=_BODY),
    "name with a parenthesis": _post(b"X(A): a", _CL, body=_BODY),
    "chunks in HTTP/1.0": _post(_TE, body=_CHUNK + _END, line=b"POST /generate HTTP/1.0"),
    "HTTP/3.7": _post(_CL, body=_BODY, line=b"POST /generate HTTP/3.7"),
    "HTTP/1.1 twice": _post(_CL, body=_BODY, line=b"POST /generate HTTP/1.1 HTTP/1.1"),
    "no version": _post(_CL, body=_BODY, line=b"POST /generate"),
    "tab in the request line": _post(_CL, body=_BODY, line=b"POST\t/generate\tHTTP/1.1"),
    "two hosts": _post("Host: y", _CL, body=_BODY),
}

CASES: dict[str, bytes] = {
    **{f"length {value!r}": _post(f"Content-Length: {value}".encode(), body=_BODY) for value in _LENGTHS},
    **{f"coding {value!r}": _post(f"Transfer-Encoding: {value}".encode(), body=_CHUNK + _END) for value in _CODINGS},
    **{name: _post(_TE, body=body) for name, body in _CHUNKS.items()},
    **{f"after a chunk: {name}": _post(_TE, body=_FULL_CHUNK + body) for name, body in _AFTER.items()},
    **_HEADS,
}

# The client sends no more, and what it has sent is a good body, if it were the whole.
CUT: dict[str, bytes] = {
    "below the length": _post(f"Content-Length: {len(_FULL) + 1}", body=_FULL),
    "inside a chunk": _post(_TE, body=b"%x\r\n%s" % (len(_FULL) + 1, _FULL)),
    "before the end of a chunk": _post(_TE, body=_FULL_CHUNK[:-2]),
    "inside the end of a chunk": _post(_TE, body=_FULL_CHUNK[:-1]),
    "before a size": _post(_TE, body=_FULL_CHUNK),
    "inside a size": _post(_TE, body=_FULL_CHUNK + b"0"),
    "inside the end of a size": _post(_TE, body=_FULL_CHUNK + b"0\r"),
    "before the trailers": _post(_TE, body=_FULL_CHUNK + b"0\r\n"),
    "inside the trailers": _post(_TE, body=_FULL_CHUNK + b"0\r\nX-A: a\r\n"),
    "inside the last line": _post(_TE, body=_FULL_CHUNK + b"0\r\n\r"),
}
