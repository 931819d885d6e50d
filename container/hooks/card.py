"""What the hook process says of itself once it has loaded. PID 1 and the web workers read it from the run directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from handler.seam.atomic_file import atomic_write


class HookCard(msgspec.Struct, frozen=True):
    """A loaded hook. `files` are the paths that run, `convention` says by whose rules.

    `owns_model`: it needs no engine. `overrides_ping`: it answers /ping. `takes_predict`: POST / and /predict are its
    routes too, as in Inference Endpoints.
    """

    convention: str
    files: list[str]
    owns_model: bool
    overrides_ping: bool
    takes_predict: bool
    is_async: bool


def write_card(path: Path, card: HookCard) -> None:
    """Replace the file at once."""
    with atomic_write(path) as scratch:
        scratch.write_bytes(msgspec.json.encode(card))


def read_card(path: Path) -> HookCard:
    """Raises OSError or ValueError."""
    return msgspec.json.decode(path.read_bytes(), type=HookCard)
