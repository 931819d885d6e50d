"""The bodies of POST /tokenize and /detokenize, field for field those of vLLM 0.33.0."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from container.api.bounds import shown
from container.api.openai.chat_request import ChatRequest
from container.api.openai.field_rules import RULES, NotDone, Rules
from container.api.openai.foreign_fields import read
from container.api.validation import check
from container.errors import InvalidRequest
from container.settings import Settings

_TOKENS = "an array of token ids"
_ALLOWED = {"prompt": "a string", "tokens": _TOKENS, "tokens[]": "an integer"}
_TokenId = Annotated[int, shown(minimum=0)]
# A field of completions; here it would change what is answered.
_UNCUT: Rules = {"truncate_prompt_tokens": NotDone("all tokens are answered")}


class TokenizePrompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text. The tokenizer adds its special tokens unless `add_special_tokens` is false."""

    foreign: ClassVar[Rules] = RULES["CompletionRequest"] | _UNCUT

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeChat(ChatRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole chat request: what bears on its prompt does so here. `add_special_tokens` is false by default."""

    foreign: ClassVar[Rules] = RULES["ChatRequest"]

    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Token ids of the model."""

    foreign: ClassVar[Rules] = RULES["CompletionRequest"]

    tokens: list[_TokenId]
    model: str | None = None


def is_vllms(body: dict[str, Any]) -> bool:
    """Whether a body of /tokenize is vLLM's. TGI's has `inputs`, which wins."""
    return body.get("inputs") is None and any(body.get(name) is not None for name in ("prompt", "messages"))


def parse_prompt(body: dict[str, Any], settings: Settings) -> TokenizePrompt:
    """Raises InvalidRequest naming the field."""
    if body.get("messages") is not None:
        raise InvalidRequest("`prompt` and `messages` exclude each other", param="messages")
    return read(body, TokenizePrompt, _ALLOWED, takes_unknown=settings.unknown_fields == "ignore")


def parse_detokenize(body: dict[str, Any], settings: Settings, vocab_size: int) -> list[int]:
    """The token ids. Raises InvalidRequest naming the field, and the first id that the model does not have."""
    tokens = read(body, DetokenizeRequest, _ALLOWED, takes_unknown=settings.unknown_fields == "ignore").tokens
    wrong = next((token_id for token_id in tokens if not 0 <= token_id < vocab_size), None)
    check("tokens", f"made of token ids from 0 to {vocab_size - 1}", wrong, wrong is None)
    return tokens
