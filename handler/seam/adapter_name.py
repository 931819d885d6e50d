"""The name of an adapter: what a path, a header and a list can all carry, and no name of the model itself."""

from __future__ import annotations

import re

MAX_CHARS = 256
# A part between slashes: printable ASCII without blank, comma and semicolon; "." and ".." are other directories.
_PART = r"(?!\.{1,2}(?:/|$))[!-+\-.0-:<-~]+"
PATTERN = rf"^{_PART}(?:/{_PART})*$"
RULE = (
    f"1 to {MAX_CHARS} printable ASCII characters without blank, comma and semicolon; parts between slashes are not "
    'empty, "." or ".."'
)
# The end of a route below /adapters/.
UPDATE = "/update"
# What clients send for whatever model is served: TGI's name for it, and that of huggingface_hub's InferenceClient.
MODEL_ALIASES = frozenset({"tgi", "dummy"})


def fits(name: str) -> bool:
    """Whether `name` keeps to `RULE`."""
    return len(name) <= MAX_CHARS and re.fullmatch(PATTERN[1:-1], name) is not None
