"""The request that functions of model-hosting-container-standards get: Starlette's, as far as they use it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from container.hooks.user_code.hook import HookRequest


class Headers(dict[str, str]):
    """Headers by name, in any case of letters."""

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__()
        for name, value in dict(pairs).items():
            self[name] = value

    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(name.lower(), str(value))

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default`."""
        return super().get(name.lower(), default)


class Url(str):
    """The path and query that were asked for."""

    @property
    def path(self) -> str:
        """The path alone."""
        return self.partition("?")[0]

    @property
    def query(self) -> str:
        """The query alone."""
        return self.partition("?")[2]


class HttpRequest:
    """A request; `_body` may be replaced, as the standard's own examples do, and then counts for all that follows."""

    def __init__(self, request: HookRequest, path: str, method: str = "POST") -> None:
        self.method = method
        self.headers = Headers(request.headers)
        if request.content_type is not None:
            self.headers.setdefault("content-type", request.content_type)
        if request.accept is not None:
            self.headers.setdefault("accept", request.accept)
        self.query_params = dict(request.query)
        self.url = Url(path + (f"?{urlencode(request.query)}" if request.query else ""))
        self.path_params: dict[str, str] = {}
        self.state = SimpleNamespace()
        self.client = None
        self._body = request.body

    async def body(self) -> bytes:
        """The bytes of the body."""
        return self._body

    async def json(self) -> Any:
        """The body as JSON. Raises json.JSONDecodeError."""
        return json.loads(self._body)

    async def form(self) -> dict[str, str]:
        """The fields of a URL-encoded body."""
        return dict(parse_qsl(self._body.decode()))

    @property
    def app(self) -> Any:
        """What is bound to FastAPI: this server has no such application."""
        raise AttributeError("request.app is a FastAPI application, and this server is none; take a parameter `model`")
