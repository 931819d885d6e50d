"""The one way off a worker's event loop: gevent's thread pool.

Tokenizing 2 MB takes seconds; `/ping` and open streams go on meanwhile. A thread gains something only where the library
releases Python's lock, as `Tokenizer.encode` does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import gevent

from container.errors import InvalidRequest
from container.text.chat_template import RenderedPrompt
from container.text.tokenizer import Tokenizer, TokenizerError

T = TypeVar("T")

# About a millisecond of tokenizing; below that a thread costs more than it saves.
_LONG_CHARS = 4096


def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Token ids, as a rule with the special tokens the tokenizer adds. Raises InvalidRequest."""
    return offload(len(text), partial(tokenizer.encode, text, add_special_tokens=add_special_tokens))


def encode_prompt(tokenizer: Tokenizer, rendered: RenderedPrompt) -> list[int]:
    """Token ids of a rendered conversation. Raises InvalidRequest."""
    return offload(len(rendered.marked), partial(rendered.encode, tokenizer))


def offload(num_chars: int, work: Callable[[], T]) -> T:
    """`work()` on a text of `num_chars`; long texts run in the pool.

    Raises InvalidRequest if the tokenizer refuses the text, and whatever else `work` raises.
    """
    try:
        return work() if num_chars <= _LONG_CHARS else in_pool(work)
    except TokenizerError as exc:
        raise InvalidRequest(f"tokenizer error {exc}") from exc


def in_pool(work: Callable[[], T]) -> T:
    """`work()` in a thread of gevent's pool; its exceptions are raised here.

    Call it on the event loop's thread only: in a pool thread gevent would create a second hub and a second pool.
    """
    found, error = gevent.get_hub().threadpool.apply(_outcome, (work,))
    if error is not None:
        raise error
    result: T = found
    return result


def _outcome(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """The result or the exception. The pool would print the traceback of an exception that it sees."""
    try:
        return work(), None
    except Exception as exc:  # noqa: BLE001 - `in_pool` raises it again
        return None, exc
