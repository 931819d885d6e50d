"""Functions of model-hosting-container-standards: handlers of /invocations and /ping, and what runs around them."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from container.hooks.model.connection import Reply
from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.answer import async_parts, is_stream, open_stream, sync_parts
from container.hooks.user_code.content.accept import Accept
from container.hooks.user_code.content.encoding import to_json
from container.hooks.user_code.content.framing import as_lines
from container.hooks.user_code.failures import hook_errors
from container.hooks.user_code.function import called, complete, is_async
from container.hooks.user_code.hook import HookAnswer, HookError, HookFiles, HookLoadError, HookRequest, HookSources
from container.hooks.user_code.http_request import Headers, HttpRequest
from container.hooks.user_code.module import import_file, import_module
from container.hooks.user_code.stepped_parts import SteppedParts

_PACKAGE = "model_hosting_container_standards"
_JSON = "application/json"
_INVOKE, _PING = "custom_sagemaker_invocation_handler", "custom_sagemaker_ping_handler"
# Headers that belong to one connection, or that the answer gets from its body.
_OF_A_CONNECTION = {"connection", "content-length", "content-type", "date", "host", "server", "transfer-encoding"}


class HttpResponse:
    """The engine's answer, as a function that post-processes sees it. A stream has no `body`, as in Starlette."""

    def __init__(self, reply: Reply) -> None:
        self.status_code = reply.status
        self.headers = Headers((name, value) for name, value in reply.headers if not _is_set_anew(name))
        self.media_type = dict(reply.headers).get("content-type")
        if isinstance(reply.body, bytes):
            self.body = reply.body
        else:
            self.body_iterator = reply.body


def _is_set_anew(name: str) -> bool:
    """Whether the outer answer gets its own: headers of the connection, of the request, of browsers' rules."""
    return name in _OF_A_CONNECTION or name == "x-request-id" or name.startswith("access-control-")


class StandardsHook:
    """`pre_process(request)`, then the handler or the engine, then `post_process(response)`.

    Functions may be sync or async. A handler that takes a parameter `model` is given our engine.
    """

    owns_model = False

    def __init__(self, files: HookFiles, engine: EngineModel | None) -> None:
        """Import what the variables name, and the script. Raises HookLoadError."""
        self._engine = engine
        found = _Functions(files)
        self._pre_process, self._post_process = found.pre_process, found.post_process
        self._invoke, self._ping = found.invoke, found.ping
        every = [each for each in (found.pre_process, found.post_process, found.invoke, found.ping) if each is not None]
        if not every:
            raise HookLoadError(f"{files.path} has neither {_INVOKE} nor {_PING}")
        if self._invoke is None and engine is None:
            raise HookLoadError(f"{files.path} has no {_INVOKE}, and no engine runs")
        self.is_async = any(map(is_async, every))
        self.overrides_ping = self._ping is not None

    def call(self, request: HookRequest) -> HookAnswer | Awaitable[HookAnswer]:
        """Answer one request. Raises HookError."""
        return self._answer(request) if self.is_async else complete(self._answer(request))

    def ping(self) -> HookAnswer | Awaitable[HookAnswer]:
        """Answer /ping. Raises HookError."""
        return self._answer_ping() if self.is_async else complete(self._answer_ping())

    async def _answer(self, request: HookRequest) -> HookAnswer:
        with hook_errors():
            sent = HttpRequest(request, "/invocations")
            sent = await self._run(self._pre_process, sent) or sent
            response = await (self._forward(sent) if self._invoke is None else self._run(self._invoke, sent))
            if self._post_process is not None:
                response = await self._run(self._post_process, response) or response
            return await _answer_of(response, Accept(request.accept, _JSON, request.body), self.is_async)

    async def _answer_ping(self) -> HookAnswer:
        with hook_errors():
            empty = HookRequest(request_id="", body=b"", content_type=None, accept=None, headers=(), query=())
            response = await self._run(self._ping, HttpRequest(empty, "/ping", "GET"))
            return await _answer_of(response, Accept(None, _JSON), self.is_async)

    async def _forward(self, request: HttpRequest) -> HttpResponse:
        """The engine's own answer to the request as it is now."""
        assert self._engine is not None
        headers, body = request.headers, await request.body()
        if self.is_async:
            return HttpResponse(await self._engine.aforward(body, headers))
        return HttpResponse(self._engine.forward(body, headers))

    async def _run(self, function: Callable[..., Any] | None, value: Any) -> Any:
        if function is None:
            return None
        names = list(inspect.signature(function).parameters)
        arguments = [value] if names and names[0] != "model" else []
        if "model" in names:
            function = functools.partial(function, model=self._engine)
        return await called(function, *arguments, on_loop=self.is_async)


class _Functions:
    """The functions in the order in which they win: a variable, a decorator, a name in the script."""

    def __init__(self, files: HookFiles) -> None:
        self._files = files
        self._modules: dict[str, ModuleType] = {}
        sources: HookSources = files.sources
        script = self._module(sources.script) if files.path is not None else None
        decorated = _decorated()
        self.pre_process = self._named("CUSTOM_PRE_PROCESS", sources.pre_process) or decorated.get("pre")
        self.post_process = self._named("CUSTOM_POST_PROCESS", sources.post_process) or decorated.get("post")
        self.invoke = (
            self._named("CUSTOM_FASTAPI_INVOCATION_HANDLER", sources.invocation_handler)
            or decorated.get("invoke")
            or getattr(script, _INVOKE, None)
        )
        self.ping = (
            self._named("CUSTOM_FASTAPI_PING_HANDLER", sources.ping_handler)
            or decorated.get("ping")
            or getattr(script, _PING, None)
        )

    def _named(self, variable: str, value: str) -> Callable[..., Any] | None:
        """A file and a function, `module:function` or `module:Class.method`. Raises HookLoadError."""
        if not value:
            return None
        where, colon, name = value.strip().partition(":")
        if not colon or not where or not name:
            kind = "a route of a FastAPI application" if value.startswith("/") else "no file.py:function"
            raise HookLoadError(f"{variable} is {value!r}, which is {kind}; file.py:function and module:function work")
        found: Any = self._module(where)
        for part in name.split("."):
            if not hasattr(found, part):
                raise HookLoadError(f"{variable} is {value!r}, and {where} has no {name}")
            found = getattr(found, part)
        if not callable(found):
            raise HookLoadError(f"{variable} is {value!r}, which is no function")
        function: Callable[..., Any] = found
        return function

    def _module(self, where: str) -> ModuleType:
        """A file relative to the model's directory, or a module; `model` is the script."""
        directory = self._files.model_directory
        where = self._files.sources.script if where == "model" else where
        if where not in self._modules:
            path = directory / where
            if where.endswith(".py") and not path.is_file():
                raise HookLoadError(f"there is no {path}")
            is_file = where.endswith(".py")
            self._modules[where] = import_file(Path(path), directory) if is_file else import_module(where, directory)
        return self._modules[where]


def _decorated() -> dict[str, Callable[..., Any]]:
    """Functions that the standard's own decorators registered, if the code imports that package.

    Raises HookLoadError for a middleware, which only a FastAPI application can run.
    """
    found: dict[str, Callable[..., Any] | None] = {}
    # Each is loaded only by code that imports its decorators.
    module = sys.modules.get(f"{_PACKAGE}.common.handler.registry")
    if module is not None:
        registry = module.handler_registry
        found |= {kind: registry.get_decorator_handler(kind) for kind in ("invoke", "ping")}
    module = sys.modules.get(f"{_PACKAGE}.common.fastapi.middleware.source.decorator_loader")
    if module is not None:
        loader = module.decorator_loader
        if loader.throttle_middleware is not None or loader.pre_post_middleware is not None:
            raise HookLoadError("@custom_middleware: a middleware of a FastAPI application, and this server is none")
        found |= {"pre": loader.pre_fn, "post": loader.post_fn}
    return {kind: function for kind, function in found.items() if function is not None}


async def _answer_of(response: Any, accept: Accept, on_loop: bool) -> HookAnswer:
    """A Response of Starlette's form, a generator, bytes, or anything else, which becomes JSON as in FastAPI."""
    if not hasattr(response, "status_code"):
        return await _plain_answer(response, accept, on_loop)
    headers = {name.lower(): str(value) for name, value in response.headers.items()}
    body = getattr(response, "body", None)
    if body is None:
        body = getattr(response, "body_iterator", b"")
    return HookAnswer(
        status=response.status_code,
        content_type=headers.get("content-type") or response.media_type,
        headers=tuple((name, value) for name, value in headers.items() if name not in _OF_A_CONNECTION),
        body=body if isinstance(body, bytes) else _parts(body, on_loop),
    )


async def _plain_answer(result: Any, accept: Accept, on_loop: bool) -> HookAnswer:
    body: bytes | Iterator[bytes] | AsyncIterator[bytes]
    if _has_status(result):
        raise HookError(500, f"status {result[1]} beside the body has no effect: return a Response, or a list for JSON")
    if is_stream(result):
        body, content_type = await open_stream(result, None, accept, on_loop)
    elif isinstance(result, bytes | bytearray):
        body, content_type = bytes(result), "application/octet-stream"
    else:
        body, content_type = to_json(result), _JSON
    return HookAnswer(status=200, content_type=content_type, headers=(), body=body)


def _has_status(result: Any) -> bool:
    """Whether a result is a body with its status, as Flask takes them; FastAPI would answer a list with 200."""
    return (
        isinstance(result, tuple)
        and len(result) in {2, 3}
        and isinstance(result[0], dict | list | str | bytes)
        and isinstance(result[1], int)
        and 100 <= result[1] <= 599
    )


def _parts(parts: Any, on_loop: bool) -> Iterator[bytes] | AsyncIterator[bytes]:
    if hasattr(parts, "__aiter__"):
        parts = aiter(parts)
        return async_parts(parts, (), as_lines) if on_loop else sync_parts(SteppedParts(parts), (), as_lines)
    return sync_parts(iter(parts), (), as_lines)
