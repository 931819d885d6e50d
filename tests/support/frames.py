"""Sixty requests that two servers in a row might end at different bytes. Whatever follows one must never be run."""

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
    **_HEADS,
}
