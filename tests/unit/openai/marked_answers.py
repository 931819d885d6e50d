"""Answers as a model writes them, token by token, read as a chat reads them: whole, and cut at every point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from container.api.openai.choice import Choice
from container.generation.generation import Delta, Token
from container.generation.visible_text import VisibleText
from container.text.chat_template import ChatTemplate
from container.text.special_tokens import SpecialTokens
from container.text.stop_strings import StopStrings
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import FinishReason

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def backend_with(special: Iterable[str], plain: Iterable[str] = ()) -> Backend:
    """A token for each byte, and added tokens with and without the special flag."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    return backend


def tokenizer_with(special: Iterable[str], plain: Iterable[str] = ()) -> Tokenizer:
    """The same as the web side reads it."""
    return Tokenizer(
        backend_with(special, plain),
        SpecialTokens(named={"bos_token": "<s>", "eos_token": "</s>"}, flagged=frozenset()),
    )


def template_of(source: str, tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate({"default": source}, tokenizer)


def text_of(tokenizer: Tokenizer, pieces: Iterable[str], marks: dict[int, str]) -> str:
    """The text that readers get. A piece that spells an added token is that token; a mark in two pieces is text."""
    visible = VisibleText(tokenizer, [], StopStrings((), keep=False), marks, show_special=False)
    ids = [token_id for piece in pieces for token_id in tokenizer.encode(piece, add_special_tokens=False)]
    return "".join([*map(visible.push, ids), visible.finish()])


@dataclass(frozen=True)
class Said:
    """What the client gets."""

    reasoning: str
    content: str | None
    calls: list[tuple[str, str]]
    finish: str


def read(choice: Choice, pieces: list[str], reason: FinishReason = FinishReason.EOS) -> Said:
    """The whole message, checked against the streamed one."""
    deltas = [
        chunk
        for i, piece in enumerate([*pieces, ""])
        for chunk in choice.add(Delta(piece, [_TOKEN], reason if i == len(pieces) else None))
    ]
    message = choice.message()
    whole: Any = message.tool_calls or []
    calls = [(call.function.name, call.function.arguments) for call in whole]
    streamed = [
        "".join(str(getattr(delta, name) or "") for delta in deltas) for name in ("reasoning_content", "content")
    ]
    assert streamed == [message.reasoning_content or "", message.content or ""]
    fragments: dict[int, str] = {}
    for delta in deltas:
        for each in delta.tool_calls or []:
            fragments[each.index] = fragments.get(each.index, "") + str(each.function.arguments or "")
    assert list(fragments.values()) == [arguments for _, arguments in calls]
    return Said(str(message.reasoning_content or ""), message.content, calls, str(choice.finish_reason))


def splits(text: str) -> Iterator[list[str]]:
    """The text whole, a character at a time, and cut in two at every point."""
    yield [text]
    yield list(text)
    yield from ([text[:i], text[i:]] for i in range(1, len(text)))


def read_everywhere(new_choice: Callable[[], Choice], text: str, reason: FinishReason = FinishReason.EOS) -> Said:
    """What the client gets, which is the same wherever the text is cut."""
    first, *others = (read(new_choice(), pieces, reason) for pieces in splits(text))
    assert all(other == first for other in others), text
    return first


_TOKEN = Token(0, "", special=False, logprob=None)
