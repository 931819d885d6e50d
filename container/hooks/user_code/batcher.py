"""`predict_fn_batch`: requests that wait for the model are handed over together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from container.hooks.model.caller import NOBODY, Caller, calls_for, current_caller
from container.hooks.model.open_calls import nobodys_calls
from container.hooks.user_code.function import Function, complete
from container.hooks.user_code.hook import HookError


class Batcher:
    """Runs `function(items, model)` for the requests that came while the last call ran.

    No call waits for a batch to fill. If a call fails, each of its requests is tried alone, so that one request that
    the function cannot take fails alone. The function returns one result for each item, in order; a result that is an
    exception is raised for its request. Calls never overlap. Log lines of a batch carry the id of its first request.
    A batch is of one caller: one adapter, one tenant.
    """

    def __init__(self, function: Function, model: Any, max_size: int) -> None:
        self._function = function
        self._model = model
        self._max_size = max_size
        self._waiting: list[tuple[Any, Future[Any], Caller]] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        self._async_turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Any, context: Any, *, on_loop: bool) -> Any:
        """The result of one request."""
        found: Future[Any] = Future()
        with self._guard:
            self._waiting.append((item, found, current_caller.get()))
        if not on_loop:
            self._take_turn(found, context)
            return found.result()
        # A task of its own: a client that leaves cancels its own request, not the batch.
        task = asyncio.create_task(self._take_async_turn(found, context))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.wrap_future(found)

    def _take_turn(self, found: Future[Any], context: Any) -> None:
        with self._turn:
            while not found.done():
                complete(self._run(context, on_loop=False))

    async def _take_async_turn(self, found: Future[Any], context: Any) -> None:
        async with self._async_turn:
            while not found.done():
                await self._run(context, on_loop=True)

    async def _run(self, context: Any, *, on_loop: bool) -> None:
        """One batch of those that wait: of one caller, whose adapter its calls of our model have."""
        with self._guard:
            caller = self._waiting[0][2] if self._waiting else NOBODY
            taken = [waiting for waiting in self._waiting if waiting[2] == caller][: self._max_size]
            founds = {found for _, found, _ in taken}
            self._waiting = [waiting for waiting in self._waiting if waiting[1] not in founds]
        # Nobody waits any more for those that were cancelled.
        batch = [(item, found) for item, found, _ in taken if found.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            with nobodys_calls(), calls_for(caller):
                results = await self._results([item for item, _ in batch], context, on_loop)
        except BaseException as exc:
            for _, found in batch:
                found.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
            return
        for (_, found), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                found.set_exception(result)
            else:
                found.set_result(result)

    async def _results(self, items: list[Any], context: Any, on_loop: bool) -> Sequence[Any]:
        try:
            return await self._call(items, context, on_loop)
        except Exception:
            if len(items) == 1:
                raise
        return [await self._alone(item, context, on_loop) for item in items]

    async def _alone(self, item: Any, context: Any, on_loop: bool) -> Any:
        try:
            return (await self._call([item], context, on_loop))[0]
        except Exception as exc:  # noqa: BLE001 - becomes this request's own error
            return exc

    async def _call(self, items: list[Any], context: Any, on_loop: bool) -> Sequence[Any]:
        found = await self._function(items, self._model, context=context, on_loop=on_loop)
        results = list(found)
        if len(results) != len(items):
            name = self._function.name
            raise HookError(500, f"{name} returned {len(results)} results for {len(items)} requests")
        return results
