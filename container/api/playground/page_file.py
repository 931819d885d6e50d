"""A file of the page, read once: its bytes, its media type and its tag."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "page"
# Not from the system's table, which images may lack: a browser runs no module of another type.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """`tag` is a digest of `content`, for If-None-Match."""

    content: bytes
    media_type: str
    tag: str


def read_page() -> dict[str, PageFile]:
    """Every file of the page by its name. Raises KeyError for a kind of file that has no media type."""
    return {path.name: _read(path) for path in sorted(_FOLDER.iterdir())}


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(content, _MEDIA_TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:32])
