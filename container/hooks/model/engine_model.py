"""The `model` of a hook that loads none: this server's own routes, so that its calls are batched with all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import aclosing
from contextvars import copy_context
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from container.hooks.model.calls_of_list import CallsOfList
from container.hooks.model.connection import Connection, Reply
from container.hooks.model.errors import ModelError
from container.hooks.model.open_calls import own_calls

T = TypeVar("T")

_CHAT, _GENERATE, _GENERATE_STREAM = "/v1/chat/completions", "/generate", "/generate_stream"
# Calls of async hooks, and prompts of one list, that are under way at the same time; more wait their turn.
_NUM_THREADS = 256
_END = object()


class EngineModel:
    """Calls of our own routes. Thread-safe.

    Every call raises ModelError with the status and the message that any client would get, and CallEnded once nobody
    waits any more for the request whose hook makes it. The twins that begin with
    `a` are for async hooks.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        directory: Path | Callable[[], Path | None] | None = None,
        context: Callable[[], Mapping[str, str]] = dict,
        timeout_s: float = 600.0,
    ) -> None:
        """`url` is "http://127.0.0.1:PORT".

        `directory` holds tokenizer.json, or finds the directory that does when the tokenizer is first asked for.
        `context` gives headers of the call that the hook serves (request id, caller), names in lower case; it is asked
        in the thread or task of the hook. `timeout_s` bounds the wait for each piece of an answer.
        """
        self._connection = Connection(url, api_key, timeout_s)
        self._directory = directory
        self._context = context
        self._pool = ThreadPoolExecutor(_NUM_THREADS, "hook-model")

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's tokenizer: `encode(text).ids`, `decode(ids)`. ModelError if there is no tokenizer.json yet."""
        directory = self._directory() if callable(self._directory) else self._directory
        path = directory / "tokenizer.json" if directory is not None else None
        if path is None or not path.is_file():
            raise ModelError(503, "there is no tokenizer.json of the model")
        return tokenizers.Tokenizer.from_file(str(path))

    def chat(self, messages: Sequence[Mapping[str, Any]], *, stream: bool = False, **params: Any) -> Any:
        """OpenAI's chat completion as a dict; with `stream` an iterator of its chunks."""
        body = {**params, "messages": messages}
        if stream:
            return self._connection.events(_CHAT, {**body, "stream": True}, self._context())
        return self._connection.call(_CHAT, body, self._context())

    def generate(self, inputs: str | Sequence[str], *, stream: bool = False, **params: Any) -> Any:
        """TGI's answer, `{"generated_text": ...}`, to a prompt; a list of them to a list of prompts.

        Those run at once, as many as the server has room for; the others wait.

        With `stream` an iterator of TGI's events, for one prompt only.
        """
        headers = self._context()
        if stream:
            if not isinstance(inputs, str):
                raise ModelError(422, "a stream has one prompt")
            return self._connection.events(_GENERATE_STREAM, {"inputs": inputs, "parameters": params}, headers)
        if isinstance(inputs, str):
            return self._generate(inputs, params, headers)
        with own_calls():
            return self._generate_all(inputs, params, headers).result()

    def stream(self, inputs: str | Sequence[Mapping[str, Any]], **params: Any) -> Generator[str, None, None]:
        """The text of an answer to a prompt or to messages, piece by piece."""
        if isinstance(inputs, str):
            return _texts_of_tokens(self.generate(inputs, stream=True, **params))
        return _texts_of_chunks(self.chat(inputs, stream=True, **params))

    def __call__(self, inputs: Any, **params: Any) -> Any:
        """As a pipeline of transformers is called: a list of one answer to a prompt, a chat's answer to messages."""
        if _is_chat(inputs):
            return self.chat(inputs, **params)
        found = self.generate(inputs, **params)
        return [found] if isinstance(found, dict) else found

    def predict(self, data: Any) -> Any:
        """What a hook without predict_fn answers: a chat if `data` has `messages`, else `inputs` with `parameters`."""
        if isinstance(data, dict) and "messages" in data:
            return self.chat(**data)
        inputs, params = _inputs(data)
        return self(inputs, **params)

    def forward(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """What /invocations would answer if there were no hook, to a client's headers without its credentials.

        `context` must name the call a nested one.
        """
        return self._connection.forward("/invocations", body, headers, self._context())

    async def achat(self, messages: Sequence[Mapping[str, Any]], *, stream: bool = False, **params: Any) -> Any:
        """`chat`; with `stream` an async iterator."""
        call = partial(self.chat, messages, stream=stream, **params)
        return self._async(await self._in_thread(call)) if stream else await self._whole(call)

    async def agenerate(self, inputs: str | Sequence[str], *, stream: bool = False, **params: Any) -> Any:
        """`generate`; with `stream` an async iterator."""
        if stream or isinstance(inputs, str):
            call = partial(self.generate, inputs, stream=stream, **params)
            return self._async(await self._in_thread(call)) if stream else await self._whole(call)
        with own_calls():
            return await asyncio.wrap_future(self._generate_all(inputs, params, self._context()))

    async def astream(self, inputs: str | Sequence[Mapping[str, Any]], **params: Any) -> AsyncGenerator[str, None]:
        """`stream` as an async iterator: `async for text in model.astream(...)`."""
        async with aclosing(self._async(await self._in_thread(partial(self.stream, inputs, **params)))) as pieces:
            async for text in pieces:
                yield text

    async def apredict(self, data: Any) -> Any:
        """`predict`."""
        if isinstance(data, dict) and "messages" in data:
            return await self.achat(**data)
        inputs, params = _inputs(data)
        if _is_chat(inputs):
            return await self.achat(inputs, **params)
        found = await self.agenerate(inputs, **params)
        return [found] if isinstance(found, dict) else found

    async def aforward(self, body: bytes, headers: Mapping[str, str]) -> Reply:
        """`forward`; a body that streams is still a sync iterator."""
        return await self._in_thread(partial(self.forward, body, headers))

    def _generate(self, prompt: str, params: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        return self._connection.call(_GENERATE, {"inputs": prompt, "parameters": params}, headers)

    def _generate_all(
        self, prompts: Sequence[str], params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Future[list[Any]]:
        """An answer to each prompt. Calls that begin later are of this context too, and end with its request."""
        context = copy_context()
        calls = [partial(self._generate, prompt, params, headers) for prompt in prompts]
        return CallsOfList(lambda call: self._pool.submit(context.copy().run, call), calls, _NUM_THREADS).results

    async def _whole(self, call: Callable[[], T]) -> T:
        """As `_in_thread`, for an answer that is whole: a task that is cancelled ends the call."""
        with own_calls():
            return await self._in_thread(call)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(call))

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        return self._pool.submit(copy_context().run, call)

    async def _async(self, parts: Generator[T, None, None]) -> AsyncGenerator[T, None]:
        step: Future[Any] | None = None
        try:
            while True:
                step = self._submit(partial(next, parts, _END))
                if (part := await asyncio.wrap_future(step)) is _END:
                    return
                yield part
        finally:
            self._pool.submit(_close, parts, step)


def _close(parts: Generator[Any, None, None], step: Future[Any] | None) -> None:
    """Close a generator, whose last step may still run."""
    if step is not None:
        wait((step,))
    parts.close()


def _inputs(data: Any) -> tuple[Any, dict[str, Any]]:
    """Inputs and parameters of a body, as the Hugging Face toolkit takes it apart; LMI's `adapters` are a parameter.

    Raises ModelError for an object without `inputs`, and for null and numbers.
    """
    if data is None or isinstance(data, int | float):
        raise ModelError(422, "the body must be a JSON object with `inputs` or `messages`, a text or a list of texts")
    if not isinstance(data, dict):
        return data, {}
    adapters = {"adapters": data["adapters"]} if data.get("adapters") else {}
    if data.get("inputs") is None:
        raise ModelError(422, "the body must have `inputs` or `messages`")
    return data["inputs"], {**adapters, **(data.get("parameters") or {})}


def _is_chat(inputs: Any) -> bool:
    return isinstance(inputs, list | tuple) and bool(inputs) and all(isinstance(one, dict) for one in inputs)


def _texts_of_tokens(events: Generator[Any, None, None]) -> Generator[str, None, None]:
    for event in events:
        token = event["token"]
        if not token["special"] and token["text"]:
            yield token["text"]


def _texts_of_chunks(chunks: Generator[Any, None, None]) -> Generator[str, None, None]:
    for chunk in chunks:
        for choice in chunk["choices"][:1]:
            if text := choice["delta"].get("content"):
                yield text
