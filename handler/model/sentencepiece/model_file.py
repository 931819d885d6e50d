"""Reads a SentencePiece model, `tokenizer.model`, without the library.

The file is one protobuf message; field numbers and defaults are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

# Fields of ModelProto.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3


class Algorithm(IntEnum):
    """How a text becomes pieces (TrainerSpec.ModelType)."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


class Kind(IntEnum):
    """What a piece is (SentencePiece.Type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its place in the file is its id."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class SentencePieceFile:
    """The pieces, and how texts are normalised. An id that the file does not have is None."""

    pieces: list[Piece]
    algorithm: Algorithm
    byte_fallback: bool
    whitespace_as_suffix: bool
    bos_id: int | None
    eos_id: int | None
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    @classmethod
    def read(cls, raw: bytes) -> SentencePieceFile:
        """Raises ValueError if `raw` is no such file."""
        pieces, trainer, normalizer = _parts(raw)
        if not pieces or not any(piece.kind is Kind.UNKNOWN for piece in pieces):
            raise ValueError("it has no pieces" if not pieces else "it has no piece for unknown text")
        return cls(
            pieces=pieces,
            algorithm=Algorithm(_number(trainer, 3, Algorithm.UNIGRAM)),
            byte_fallback=bool(_number(trainer, 35, 0)),
            whitespace_as_suffix=bool(_number(trainer, 24, 0)),
            bos_id=_id(trainer, 41, 1, len(pieces)),
            eos_id=_id(trainer, 42, 2, len(pieces)),
            charsmap=_bytes(normalizer, 2),
            add_dummy_prefix=bool(_number(normalizer, 3, 1)),
            remove_extra_whitespaces=bool(_number(normalizer, 4, 1)),
            escape_whitespaces=bool(_number(normalizer, 5, 1)),
        )


def _parts(raw: bytes) -> tuple[list[Piece], dict[int, int | bytes], dict[int, int | bytes]]:
    """The pieces, the trainer's values and the normalizer's, by field number."""
    pieces = []
    found: dict[int, dict[int, int | bytes]] = {_TRAINER: {}, _NORMALIZER: {}}
    for number, value in _fields(raw):
        if number == _PIECE and isinstance(value, bytes):
            pieces.append(_piece(dict(_fields(value))))
        elif number in found and isinstance(value, bytes):
            found[number] |= dict(_fields(value))
    return pieces, found[_TRAINER], found[_NORMALIZER]


def _piece(fields: dict[int, int | bytes]) -> Piece:
    (score,) = struct.unpack("<f", _bytes(fields, 2) or bytes(4))
    return Piece(_bytes(fields, 1).decode("utf-8"), score, Kind(_number(fields, 3, Kind.NORMAL)))


def _number(fields: dict[int, int | bytes], number: int, default: int) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")
    return value


def _bytes(fields: dict[int, int | bytes], number: int) -> bytes:
    value = fields.get(number, b"")
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} holds no bytes")
    return value


def _id(fields: dict[int, int | bytes], number: int, default: int, size: int) -> int | None:
    """Negative numbers, which mean none, are stored as 64 bits without a sign."""
    value = _number(fields, number, default)
    return value if value < size else None


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of every field of a message: a whole number, or the bytes of any other type."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield tag >> 3, value
            continue
        length, at = _varint(raw, at) if wire == 2 else ({1: 8, 5: 4}.get(wire, -1), at)
        if length < 0 or at + length > len(raw):
            raise ValueError("it is damaged, or no SentencePiece model")
        yield tag >> 3, raw[at : at + length]
        at += length


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            break
        byte, at = raw[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it is damaged, or no SentencePiece model")
