"""Work on long texts, off the worker's event loop: tokenizing 2 MB takes seconds, and /ping must not wait for it.

tokenizers releases the interpreter's lock while it works, so a thread of gevent's pool is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import gevent

from container.errors import InvalidRequest
from container.text.chat_template import RenderedPrompt
from container.text.tokenizer import Tokenizer, TokenizerError

T = TypeVar("T")

# About a millisecond of tokenizing; below that a thread costs more than it saves.
_SHORT_CHARS = 4096


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids with the special tokens the tokenizer adds. Raises InvalidRequest."""
    return aside(len(text), partial(tokenizer.encode, text, add_special_tokens=True))


def encode_prompt(tokenizer: Tokenizer, rendered: RenderedPrompt) -> list[int]:
    """Token ids of a rendered conversation. Raises InvalidRequest."""
    return aside(len(rendered.marked), partial(rendered.encode, tokenizer))


def aside(num_chars: int, work: Callable[[], T]) -> T:
    """`work()`, in a thread if the text it works on is long. Raises InvalidRequest for what the tokenizer refuses."""
    found = _caught(work) if num_chars <= _SHORT_CHARS else gevent.get_hub().threadpool.apply(_caught, (work,))
    if isinstance(found, TokenizerError):
        raise InvalidRequest(f"tokenizer error {found}") from found
    return found


def _caught(work: Callable[[], T]) -> T | TokenizerError:
    """gevent's pool would print the traceback of what is raised in a thread."""
    try:
        return work()
    except TokenizerError as exc:
        return exc
