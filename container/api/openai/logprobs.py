"""Log-probabilities in OpenAI's two shapes: chat's entries with bytes, and the old completions' parallel lists."""

from __future__ import annotations

from typing import Any

from container.generation import Token
from container.text.tokenizer import Tokenizer
from handler.protocol import TokenLogprob

# JSON has no minus infinity; OpenAI sends this for tokens that could not come.
_FLOOR = -9999.0


def chat_entries(tokens: list[Token], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """One entry for each token, with its alternatives."""
    return [_chat_entry(token.id, token.logprob, tokenizer) for token in tokens if token.logprob is not None]


def _chat_entry(token_id: int, found: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    top = [_named(other, value, tokenizer) for other, value in found.top]
    return {**_named(token_id, found.logprob, tokenizer), "top_logprobs": top}


def _named(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    text, raw = token_text(token_id, tokenizer)
    return {"token": text, "logprob": max(logprob, _FLOOR), "bytes": list(raw)}


def token_text(token_id: int, tokenizer: Tokenizer) -> tuple[str, bytes]:
    """A token's text, with U+FFFD for bytes that are no character alone, and its exact bytes where they are known."""
    table = tokenizer.token_bytes
    text = tokenizer.decode([token_id], skip_special_tokens=False)
    if table is None:
        return text, text.encode()
    raw = table.inner(token_id)
    return raw.decode("utf-8", "replace"), raw


class CompletionLogprobs:
    """The parallel lists of /v1/completions, filled token by token. Offsets are characters of the whole text."""

    def __init__(self, tokenizer: Tokenizer, num_top: int) -> None:
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._offset = 0

    def entries(self, scored: list[tuple[int, TokenLogprob | None]]) -> dict[str, Any]:
        """The lists for these `(token_id, logprob)`; None, for the first token of a prompt, has no logprob."""
        result: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token_id, found in scored:
            text, _ = token_text(token_id, self._tokenizer)
            result["tokens"].append(text)
            result["token_logprobs"].append(None if found is None else max(found.logprob, _FLOOR))
            result["top_logprobs"].append(None if found is None else self._top(found))
            result["text_offset"].append(self._offset)
            self._offset += len(text)
        return result

    def _top(self, found: TokenLogprob) -> dict[str, float]:
        return {token_text(other, self._tokenizer)[0]: max(value, _FLOOR) for other, value in found.top}
