"""Log-probabilities in OpenAI's two shapes: chat's entries with bytes, and the completions' parallel lists."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from container.api.openai.answer_types import PromptLogprobs, PromptToken, ScoredToken, TextLogprobs, TokenEntry
from container.generation.generation import Token
from container.text.tokenizer import Tokenizer
from handler.seam.protocol import TokenLogprob

# JSON has no minus infinity; OpenAI sends this for impossible tokens.
_FLOOR = -9999.0

Scored = tuple[int, TokenLogprob | None]


class TokenTexts:
    """The exact bytes of tokens. A text's first token may differ: some tokenizers drop its leading space."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def raw(self, token_id: int, *, first: bool) -> bytes:
        """The bytes the token adds to the text; control tokens are spelt out."""
        table = self._tokenizer.token_bytes
        if table is None:
            return self._tokenizer.decode([token_id], skip_special_tokens=False).encode()
        return table.first(token_id) if first else table.inner(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether the text leaves the token out."""
        return self._tokenizer.is_special(token_id)


class ChatLogprobs:
    """The entries of one choice, token by token. All `bytes` together are the text, up to a stop string.

    Tokens that are not part of the text, control tokens as a rule, have no entry.
    """

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool = False) -> None:
        """`as_ids` names tokens by their ids (vLLM's `return_tokens_as_token_ids`)."""
        self._texts = TokenTexts(tokenizer)
        self._as_ids = as_ids
        self._first = True

    def entries(self, tokens: Sequence[Token]) -> list[ScoredToken]:
        """One entry for each token, with its alternatives."""
        found: list[ScoredToken] = []
        for token in tokens:
            if token.logprob is None or token.hidden:
                continue
            top = [self._named(other, value) for other, value in token.logprob.top]
            chosen = self._named(token.id, token.logprob.logprob)
            found.append(ScoredToken(chosen.token, chosen.logprob, chosen.bytes, top))
            self._first = False
        return found

    def _named(self, token_id: int, logprob: float) -> TokenEntry:
        """Bytes that are not a whole character are spelt as OpenAI does: `\\xf0\\x9f`."""
        raw = self._texts.raw(token_id, first=self._first)
        text = _by_id(token_id) if self._as_ids else raw.decode("utf-8", "backslashreplace")
        return TokenEntry(text, max(logprob, _FLOOR), list(raw))


class CompletionLogprobs:
    """The parallel lists of /v1/completions, built token by token. Offsets count characters of the choice's text."""

    def __init__(self, tokenizer: Tokenizer, *, shows_special: bool = False, as_ids: bool = False) -> None:
        self._as_ids = as_ids
        self._texts = TokenTexts(tokenizer)
        self._shows_special = shows_special
        self._first = True
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def entries(self, scored: Sequence[Scored]) -> TextLogprobs:
        """The lists for these tokens; the first token of a prompt has None instead of a log-probability."""
        result = TextLogprobs([], [], [], [])
        for token_id, found in scored:
            raw = self._texts.raw(token_id, first=self._first)
            result.tokens.append(self._name(token_id))
            result.token_logprobs.append(None if found is None else max(found.logprob, _FLOOR))
            result.top_logprobs.append(None if found is None else self._top(found))
            result.text_offset.append(self._offset)
            if self._shows_special or not self._texts.is_special(token_id):
                self._offset += len(self._decoder.decode(raw))
                self._first = False
        return result

    def _top(self, found: TokenLogprob) -> dict[str, float]:
        return {self._name(other): max(value, _FLOOR) for other, value in found.top}

    def _name(self, token_id: int) -> str:
        return _by_id(token_id) if self._as_ids else _spelt(self._texts.raw(token_id, first=self._first))


def prompt_entries(
    token_ids: Sequence[int], scored: Sequence[TokenLogprob], num_top: int, tokenizer: Tokenizer
) -> PromptLogprobs:
    """vLLM's `prompt_logprobs`: for each token after the first its own entry and those of the `num_top` most likely."""
    texts = TokenTexts(tokenizer)

    def entry(token_id: int, logprob: float, rank: int) -> PromptToken:
        text = texts.raw(token_id, first=False).decode("utf-8", "replace")
        return PromptToken(max(logprob, _FLOOR), rank, text)

    found: PromptLogprobs = [None]
    for token_id, each in zip(token_ids[1:], scored, strict=False):
        top = {str(other): entry(other, value, rank) for rank, (other, value) in enumerate(each.top[:num_top], 1)}
        found.append({str(token_id): entry(token_id, each.logprob, each.rank)} | top)
    return found


def _by_id(token_id: int) -> str:
    return f"token_id:{token_id}"


def _spelt(raw: bytes) -> str:
    """OpenAI's spelling, in which tokens that are not whole characters stay distinct."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
