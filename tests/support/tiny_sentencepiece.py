"""Writes small SentencePiece models: the protobuf message of sentencepiece_model.proto, field by field."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
# Merged in this order.
_WORDS = ("▁▁", "▁h", "el", "lo", "▁hel", "▁hello", "wo", "rl", "rld", "worl", "▁w", "ello", "▁world", "12", "world")
_CHARACTERS = "▁abdehlorw123.é"
Piece = tuple[str, float, int]


def pieces(user_defined: Sequence[str] = (), *, byte_fallback: bool = True) -> list[Piece]:
    """`<unk>`, `<s>` and `</s>`, then `user_defined`, bytes, words and characters."""
    found: list[Piece] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    found += [(text, 0.0, USER_DEFINED) for text in user_defined]
    found += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)] if byte_fallback else []
    return found + [(text, float(-i), NORMAL) for i, text in enumerate((*_WORDS, *_CHARACTERS))]


def charsmap(before: str, after: str) -> bytes:
    """The rule that one ASCII character becomes another, as a trie of Darts-clone and the texts that it points to."""
    units = [0] * 256
    child = 128 ^ ord(before)
    units[0] = 128 << 10
    units[child] = 1 << 10 | 1 << 8 | ord(before)
    units[child ^ 1] = 1 << 31
    return struct.pack("<257I", 1024, *units) + after.encode() + b"\0"


def write(
    path: Path, vocabulary: Sequence[Piece], trainer: Mapping[int, int], normalizer: Mapping[int, int | bytes]
) -> None:
    """`trainer` and `normalizer` are values by field."""
    parts = [
        b"".join((_bytes(1, text.encode()), b"\x15" + struct.pack("<f", score), _number(3, kind)))
        for text, score, kind in vocabulary
    ]
    message = b"".join(_bytes(1, part) for part in parts)
    for field, values in ((2, trainer), (3, normalizer)):
        message += _bytes(field, b"".join(_field(key, value) for key, value in values.items()))
    path.write_bytes(message)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(field: int, value: int | bytes) -> bytes:
    return _bytes(field, value) if isinstance(value, bytes) else _number(field, value)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
