"""The fields that say how tokens are chosen and when they end, of every request that a chat can come from."""

from __future__ import annotations

from typing import Annotated

import msgspec

from container.api.bounds import shown, within

MAX_COUNT = 2**31 - 1
_MAX_SEED = 2**63 - 1
_Text = Annotated[str, shown(minLength=1)]
IN_DIGITS = r"^[0-9]{1,10}$"
_TokenKey = Annotated[str, shown(pattern=IN_DIGITS)]
# `document_limits` adds the vocabulary's size to the OpenAPI document.
TokenId = Annotated[int, shown(minimum=0, maximum=MAX_COUNT)]


class TokenFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, then those of TGI, vLLM and llama.cpp. None counts as absent."""

    temperature: Annotated[float | None, within(0, 100)] = None
    top_p: Annotated[float | None, within(0, 1)] = None
    stop: Annotated[str | Annotated[list[_Text], shown(maxItems=4)] | None, shown(minLength=1)] = None
    seed: Annotated[int | None, within(-_MAX_SEED - 1, _MAX_SEED)] = None
    frequency_penalty: Annotated[float | None, within(-2, 2)] = None
    presence_penalty: Annotated[float | None, within(-2, 2)] = None
    logit_bias: dict[_TokenKey, Annotated[float, shown(minimum=-100, maximum=100)]] | None = None
    top_k: Annotated[int | None, within(-1, MAX_COUNT)] = None
    min_p: Annotated[float | None, within(0, 1)] = None
    typical_p: Annotated[float | None, within(above=0, maximum=1)] = None
    repetition_penalty: Annotated[float | None, within(above=0, maximum=100)] = None
    min_tokens: Annotated[int | None, within(0, MAX_COUNT)] = None
    ignore_eos: bool | None = None
    cache_salt: _Text | None = None
    cache_prompt: bool | None = None
