"""Bytes of a checkpoint's weights that serve text, from the headers of its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

from handler.formats.tensor_files import weight_files

# Words in the names of weights that no text reaches: encoders of images and sound, and what joins them to the text.
_TOWER = re.compile(
    r"(?:^|[._])(?:vision|visual|vit|siglip|clip|sam|images?|video|audio|speech|sound|vq(?:model)?|(?:mm_)?projector"
    r"|qformer|resampler|perceiver|connector|aligner)(?:[._]|$)"
)


def language_bytes(directory: Path) -> int:
    """Bytes on disk of the weights of the language part. Files without a readable header count whole."""
    return sum(map(_bytes_of, weight_files(directory)))


def _bytes_of(path: Path) -> int:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        spans = {name: each["data_offsets"] for name, each in header.items() if name != "__metadata__"}
    except (OSError, ValueError, LookupError, TypeError, MemoryError, OverflowError):
        return path.stat().st_size
    return sum(end - begin for name, (begin, end) in spans.items() if not _TOWER.search(name))
