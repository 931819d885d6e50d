"""`predict_fn_batch`: requests that wait for the model are handed over together."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from container.hooks.model.caller import NOBODY, Caller, calls_for, current_caller
from container.hooks.model.errors import CallEnded
from container.hooks.model.open_calls import OpenCalls, nobodys_calls, open_calls
from container.hooks.user_code.function import Function, complete
from container.hooks.user_code.hook import HookError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Item:
    """What one request gives the function, and where its result goes."""

    data: Any
    found: Future[Any]
    request: OpenCalls | None
    caller: Caller

    def is_waited_for(self) -> bool:
        """False if its request has ended; whoever asks for the result is told so."""
        if self.request is not None and self.request.ended_s is not None:
            self.found.set_exception(CallEnded())
        return not self.found.done()

    def settle(self, result: Any) -> None:
        """Hand over the result; one that is an exception is raised."""
        if isinstance(result, StopIteration):
            # No future of an event loop takes one: its request would wait for ever.
            error = RuntimeError("the result is a StopIteration")
            error.__cause__ = result
            self.found.set_exception(error)
        elif isinstance(result, Exception):
            self.found.set_exception(result)
        else:
            self.found.set_result(result)


class Batcher:
    """Runs `function(items, model)` for the requests that came while the last call ran.

    No call waits for a batch to fill. If a call fails, each of its requests is tried alone, so that one request that
    the function cannot take fails alone. Too little memory fails all of them, and nothing is tried again. Requests that
    nobody waits for are left out. The function returns one result for each item, in order; an exception as a result is
    raised for its request. Calls never overlap. Log lines of a batch carry the id of its first request.
    A batch is of one caller: one adapter, one tenant.
    """

    def __init__(self, function: Function, model: Any, max_size: int) -> None:
        self._function = function
        self._model = model
        self._max_size = max_size
        self._waiting: list[_Item] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        self._async_turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Any, context: Any, *, on_loop: bool) -> Any:
        """The result of one request."""
        found: Future[Any] = Future()
        with self._guard:
            self._waiting.append(_Item(item, found, open_calls.get(), current_caller.get()))
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
            caller = self._waiting[0].caller if self._waiting else NOBODY
            batch = [item for item in self._waiting if item.caller == caller][: self._max_size]
            taken = set(batch)
            self._waiting = [item for item in self._waiting if item not in taken]
        # A future that was cancelled takes no result.
        batch = [item for item in batch if item.found.set_running_or_notify_cancel() and item.is_waited_for()]
        if not batch:
            return
        try:
            with nobodys_calls(), calls_for(caller):
                await self._settle(batch, context, on_loop)
        except BaseException as exc:
            for item in batch:
                if not item.found.done():
                    item.found.set_exception(exc)
            if not isinstance(exc, Exception):
                raise

    async def _settle(self, batch: list[_Item], context: Any, on_loop: bool) -> None:
        """Give each request its result or its exception. Raises what fails all of them."""
        try:
            results = await self._call([item.data for item in batch], context, on_loop)
        except MemoryError:
            raise
        except Exception as exc:
            if len(batch) == 1:
                raise
            name, number = self._function.name, len(batch)
            logger.warning("%s failed for %d requests; each is tried alone", name, number, exc_info=exc)
        else:
            for item, result in zip(batch, results, strict=True):
                item.settle(result)
            return
        for item in batch:
            if item.is_waited_for():
                item.settle(await self._alone(item.data, context, on_loop))

    async def _alone(self, data: Any, context: Any, on_loop: bool) -> Any:
        try:
            return (await self._call([data], context, on_loop))[0]
        except Exception as exc:  # noqa: BLE001 - becomes this request's own error
            return exc

    async def _call(self, items: list[Any], context: Any, on_loop: bool) -> Sequence[Any]:
        found = await self._function(items, self._model, context=context, on_loop=on_loop)
        results = list(found)
        if len(results) != len(items):
            name = self._function.name
            raise HookError(500, f"{name} returned {len(results)} results for {len(items)} requests")
        return results
