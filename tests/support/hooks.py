"""A user's code, written to a directory and loaded as the hook process loads it."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from container.hooks.model.engine_model import EngineModel
from container.hooks.user_code.files import find
from container.hooks.user_code.hook import Hook, HookAnswer, HookFiles, HookRequest, HookSources
from container.hooks.user_code.load import load

JSON = "application/json"


@pytest.fixture(autouse=True)
def modules_as_they_were() -> Iterator[None]:
    """Imports of users' code leave nothing behind: an `inference` of one test would be found by the next."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - modules:
        if not name.startswith(("numpy", "scipy", "container", "sagemaker_inference")):
            del sys.modules[name]


def write(directory: Path, files: dict[str, str]) -> Path:
    """Files with these texts below `directory`."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return directory


def found(directory: Path, *, trusted: bool = True, **environ: str) -> HookFiles | None:
    return find(directory, HookSources.read(environ), trusted=trusted)


def loaded(
    directory: Path, files: dict[str, str] | None = None, engine: EngineModel | None = None, **environ: str
) -> Hook:
    """The hook in `directory`, where `files` are written first."""
    hook_files = found(write(directory, files or {}), **environ)
    assert hook_files is not None
    return load(hook_files, engine)


def request(body: Any = b"", content_type: str | None = JSON, accept: str | None = None, **more: Any) -> HookRequest:
    """A request; a body that is neither bytes nor text is sent as JSON."""
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    given = {"request_id": "r-1", "headers": (), "query": ()} | more
    return HookRequest(body=raw, content_type=content_type, accept=accept, **given)


def answer(hook: Hook, sent: HookRequest) -> HookAnswer:
    """The answer with its whole body, as the host makes it: an async hook on an event loop."""
    if hook.is_async:
        return asyncio.run(asyncio.wait_for(_answer(hook, sent), 60))
    result = hook.call(sent)
    assert isinstance(result, HookAnswer)
    if isinstance(result.body, bytes | Iterator):
        return _with_body(result, result.body if isinstance(result.body, bytes) else b"".join(result.body))
    return _with_body(result, asyncio.run(_joined(result.body)))


async def _answer(hook: Hook, sent: HookRequest) -> HookAnswer:
    called = hook.call(sent)
    assert inspect.isawaitable(called)
    result = await called
    if isinstance(result.body, bytes):
        return result
    if isinstance(result.body, Iterator):
        return _with_body(result, b"".join(result.body))
    return _with_body(result, await _joined(result.body))


async def _joined(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in body])


def _with_body(given: HookAnswer, body: bytes) -> HookAnswer:
    return HookAnswer(given.status, given.content_type, given.headers, body)
