"""A user's function: how many arguments it takes, and how it is called, sync or async, from sync or async code."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from container.hooks.user_code.hook import HookLoadError

T = TypeVar("T")
_END = object()


class Function:
    """A user's function of `num_arguments` arguments, or one more for the context.

    The rule is that of sagemaker-inference and the Hugging Face toolkit: parameters are counted. What neither could
    call, a function with more parameters that all have defaults, is called without a context.
    """

    def __init__(self, function: Callable[..., Any], num_arguments: int) -> None:
        """Raises HookLoadError if it cannot be called so."""
        self._function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.is_async = is_async(function)
        self._takes_context = _takes_context(function, num_arguments, self.name)

    async def __call__(self, *args: Any, context: Any = None, on_loop: bool) -> Any:
        """Call it. `on_loop`: an event loop runs, so what is not async runs in a thread of its executor."""
        if self._takes_context:
            args = (*args, context)
        return await called(self._function, *args, on_loop=on_loop)


async def called(function: Callable[..., Any], *args: Any, on_loop: bool) -> Any:
    """The result of a function, whether it is async or not."""
    if not on_loop:
        result = function(*args)
        # A function that only returns an awaitable, which nobody could see before.
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result
    result = function(*args) if is_async(function) else await asyncio.to_thread(_in_thread, function, *args)
    return await result if inspect.isawaitable(result) else result


def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """The result of `function`. No future takes a StopIteration: its request would wait for ever."""
    try:
        return function(*args)
    except StopIteration as exc:
        raise RuntimeError("the function raised StopIteration") from exc


def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, as all do that call with `on_loop` false."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine waits where no event loop runs")


def is_async(function: Callable[..., Any]) -> bool:
    """Whether its result is to be awaited or iterated on an event loop. Objects with an async `__call__` count."""
    found = function if inspect.isroutine(function) or isinstance(function, functools.partial) else function.__call__  # type: ignore[operator]
    return inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found)


def serialised(function: Callable[..., Any], lock: threading.Lock) -> Callable[..., Any]:
    """One call, or one part of a stream, at a time: the toolkits' servers never run a model in two threads at once.

    A stream that waits for its client holds nobody up. A function that is async is left as it is: it shares one thread
    with all others.
    """
    if is_async(function):
        return function

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with lock:
            result = function(*args)
        return _stepwise(result, lock) if inspect.isgenerator(result) else result

    return call


def _stepwise(parts: Any, lock: threading.Lock) -> Iterator[Any]:
    try:
        while True:
            with lock:
                part = next(parts, _END)
            if part is _END:
                return
            yield part
    finally:
        parts.close()


def _takes_context(function: Callable[..., Any], num_arguments: int, name: str) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions in C have none
        return False
    count = len(signature.parameters)
    for given in (num_arguments + 1,) if count == num_arguments + 1 else (num_arguments,):
        try:
            signature.bind(*[None] * given)
        except TypeError as exc:
            takes = f"{num_arguments} or {num_arguments + 1} arguments"
            raise HookLoadError(f"{name} must take {takes}; it is defined as {name}{signature}") from exc
    return count == num_arguments + 1


async def _awaited(result: Any) -> Any:
    return await result
