"""The `model` of a hook that loads none: this server's own routes, so that its calls are batched with all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


class EngineModel:
    """Calls of our own routes. Thread-safe."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        directory: Path | None = None,
        context: Callable[[], Mapping[str, str]] = dict,
        timeout_s: float = 600.0,
    ) -> None:
        """`url` is "http://127.0.0.1:PORT".

        `directory` holds tokenizer.json; None: the hook gets no tokenizer. `context` gives headers of the call that
        the hook serves (request id, trace); it is asked in the thread or task of the hook.
        """
        self._url = url
        self._api_key = api_key
        self._directory = directory
        self._context = context
        self._timeout_s = timeout_s
