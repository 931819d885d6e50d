"""Names that a route does not read: ignored, as in TGI, but logged with the name that may be meant."""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import Any

import msgspec

from container.api.ignored_fields import note_ignored
from container.api.spelling import did_you_mean

# Each name is compared with all known ones, and a body may have 100,000.
_MAX_NOTED = 20


def note_unknown(value: Any, kind: type[msgspec.Struct], path: str = "") -> None:
    """Log once each key of `value` that `kind` does not have; `path` is where `value` stands, with a dot at its end."""
    if not isinstance(value, dict):
        return
    names = _names(kind)
    for name in islice((name for name in value if name not in names), _MAX_NOTED):
        hint = did_you_mean(name, names)
        note_ignored(f"{path}{name}", f"this route does not read it, as in TGI{'.' if hint else ''}{hint}")


@cache
def _names(kind: Any) -> tuple[str, ...]:
    tag = kind.__struct_config__.tag_field
    return (*(field.encode_name for field in msgspec.structs.fields(kind)), *((tag,) if tag else ()))
