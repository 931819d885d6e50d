"""Encoder for the binary frames of `InvokeEndpointWithResponseStream`; botocore only ships the decoder.

A frame is `[u32 total][u32 headers length][u32 crc of the two] headers payload [u32 crc of all before]`,
big-endian; a header is `u8 name length, name, u8 7 (string), u16 value length, value`.
"""

from __future__ import annotations

import binascii
import json
import struct

_STRING = 7


def encode_message(headers: dict[str, str], payload: bytes) -> bytes:
    """Return one frame with string headers only, which is all this API uses."""
    head = b"".join(_encode_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + head + payload
    return message + struct.pack("!I", binascii.crc32(message))


def payload_part(data: bytes) -> bytes:
    """Return a `PayloadPart` event that carries `data` raw."""
    headers = {
        ":message-type": "event",
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
    }
    return encode_message(headers, data)


def stream_error(error_code: str, message: str) -> bytes:
    """Return a `ModelStreamError`; `error_code` is `StreamBroken` or `ModelInvocationTimeExceeded`."""
    headers = {
        ":message-type": "exception",
        ":exception-type": "ModelStreamError",
        ":content-type": "application/json",
    }
    return encode_message(headers, json.dumps({"Message": message, "ErrorCode": error_code}).encode())


def _encode_header(name: str, value: str) -> bytes:
    raw_name, raw_value = name.encode(), value.encode()
    return struct.pack("!B", len(raw_name)) + raw_name + struct.pack("!BH", _STRING, len(raw_value)) + raw_value
