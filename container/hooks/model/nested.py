"""How /invocations knows a request that a hook itself sends: such a one is for the engine, or it would never end."""

from __future__ import annotations

import hashlib
from pathlib import Path

# In lower case, as HookRequest.headers has its names.
NESTED_HEADER = "x-hook-nested"


def nested_token(run_dir: Path) -> str:
    """The header's value, which no client can know: the run directory's name is random and told to nobody."""
    return hashlib.sha256(str(run_dir).encode()).hexdigest()
