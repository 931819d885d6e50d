"""How the web workers know a request that a hook itself sends: it is for the engine, or it would never end.

Such a request says for whom it is. From anybody else these headers mean nothing, and no hook sees them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path

from container.hooks.model.caller import Caller

# In lower case, as HookRequest.headers has its names.
NESTED_HEADER, _ADAPTER, _TENANT = "x-hook-nested", "x-hook-adapter", "x-hook-tenant"
NESTED_HEADERS = frozenset({NESTED_HEADER, _ADAPTER, _TENANT})


def nested_token(run_dir: Path) -> str:
    """The header's value, which no client can know: the run directory's name is random and told to nobody."""
    return hashlib.sha256(str(run_dir).encode()).hexdigest()


def nested_headers(token: str, caller: Caller) -> dict[str, str]:
    """The headers of a call of the model that is made for `caller`."""
    found = {NESTED_HEADER: token, _ADAPTER: caller.adapter, _TENANT: caller.tenant}
    return {name: value for name, value in found.items() if value}


def nested_caller(token: str, header: Callable[[str], str | None]) -> Caller | None:
    """For whom a hook sent the request with these headers; None: a client sent it.

    `header` gives the value of one, in any case of letters.
    """
    if not hmac.compare_digest((header(NESTED_HEADER) or "").encode(), token.encode()):
        return None
    return Caller(header(_ADAPTER) or "", header(_TENANT) or "")
