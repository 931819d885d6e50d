"""`handler.py`: an EndpointHandler, as Inference Endpoints' toolkit makes and calls it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable
from types import ModuleType
from typing import Any

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.answer import is_body, is_typed, to_answer
from container.hooks.user_code.content.accept import Accept
from container.hooks.user_code.content.decoding import decode
from container.hooks.user_code.content.encoding import encode
from container.hooks.user_code.context import Context
from container.hooks.user_code.failures import hook_errors
from container.hooks.user_code.function import called, complete, is_async, serialised
from container.hooks.user_code.hook import HookAnswer, HookFiles, HookLoadError, HookRequest
from container.hooks.user_code.module import load_error

_CLASS = "EndpointHandler"


class EndpointHook:
    """One EndpointHandler. It is given our engine if its constructor has a parameter `model`; else it owns its model.

    A handler that owns its model is called once at a time, as there.
    """

    overrides_ping = False

    def __init__(self, module: ModuleType, files: HookFiles, engine: EngineModel | None) -> None:
        """Make the handler. Raises HookLoadError."""
        self._files = files
        made = getattr(module, _CLASS, None)
        if not callable(made):
            raise HookLoadError(f"{files.path} has no class {_CLASS}")
        self.owns_model = not _takes_model(made)
        if not self.owns_model and engine is None:
            raise HookLoadError(f"{_CLASS} of {files.path} takes a model, and no engine runs")
        try:
            handler = made(str(files.model_directory), **({} if self.owns_model else {"model": engine}))
        except BaseException as exc:
            raise load_error(f"{_CLASS} of {files.path} failed", exc) from exc
        if not callable(handler):
            raise HookLoadError(f"{_CLASS} of {files.path} has no __call__")
        self.is_async = is_async(handler)
        self._handler = serialised(handler.__call__, threading.Lock()) if self.owns_model else handler

    def call(self, request: HookRequest) -> HookAnswer | Awaitable[HookAnswer]:
        """Answer one request. Raises HookError."""
        return self._answer(request) if self.is_async else complete(self._answer(request))

    def ping(self) -> HookAnswer:
        """This convention has no ping of its own."""
        raise NotImplementedError

    async def _answer(self, request: HookRequest) -> HookAnswer:
        with hook_errors():
            data = decode(request.body, request.content_type, self._files.convention)
            if not isinstance(data, dict):
                raise ValueError("the body must be a JSON object, with `inputs`")
            if request.query and "parameters" not in data:
                data["parameters"] = {name: _parsed(value) for name, value in request.query}
            accept = Accept(request.accept, self._files.sources.default_accept, request.body)
            result = await called(self._handler, data, on_loop=self.is_async)
            if not is_body(result):
                result = encode(result, accept, self._files.convention)
            result, content_type = result if is_typed(result) else (result, None)
            context = Context(self._files.model_directory, request)
            return await to_answer(result, content_type, accept, context, self.is_async)


def _takes_model(made: Any) -> bool:
    try:
        return "model" in inspect.signature(made).parameters
    except (TypeError, ValueError):
        return False


def _parsed(value: str) -> Any:
    """A query parameter as the toolkit reads it: whole numbers and booleans, else text."""
    return {"true": True, "false": False}.get(value, int(value) if value.isascii() and value.isdigit() else value)
