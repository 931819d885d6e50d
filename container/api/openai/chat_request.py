"""The body of POST /v1/chat/completions, made into a `ChatRequest` that is valid by construction."""

from __future__ import annotations

from typing import Any

import msgspec

from container.api.openai.messages import checked_messages
from container.api.openai.response_format import grammar_of
from container.api.openai.sampling import SamplingFields, check_sampling
from container.api.openai.tools import ToolUse, tool_use
from container.api.validation import check, convert
from container.errors import InvalidRequest
from container.settings import Settings
from handler.protocol import Grammar

_MAX_TOP_LOGPROBS = 20
_REFUSED_MODALITIES = 'audio answers are not supported; leave out `modalities` or set it to ["text"]'


class ChatRequest(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, then those TGI and vLLM added. None is absent."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    tool_prompt: str | None = None
    modalities: list[str] | None = None
    store: bool | None = None
    verbosity: str | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def limit(self) -> int | None:
        """The number of tokens to generate at most, by either of its names."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """What `SamplingParams.num_logprobs` has to be."""
        return (self.top_logprobs or 0) if self.logprobs else None


class Chat(msgspec.Struct, frozen=True):
    """A checked request: messages as templates want them, the tools in use, the constraint on the text."""

    request: ChatRequest
    messages: list[dict[str, Any]]
    tools: ToolUse | None
    grammar: Grammar | None


def parse_chat(body: dict[str, Any], settings: Settings) -> Chat:
    """Raises InvalidRequest naming field, limit and value."""
    request = convert(body, ChatRequest)
    messages = checked_messages(request.messages)
    check_sampling(request, settings)
    _check_own_fields(request)
    tools = tool_use(request.tools, request.tool_choice, request.parallel_tool_calls)
    grammar = grammar_of(request.response_format)
    if tools is not None and grammar is not None:
        raise InvalidRequest("`response_format` and `tools` exclude each other", param="response_format")
    if tools is not None and tools.forced:
        grammar = tools.grammar()
    return Chat(request, messages, tools, grammar)


def _check_own_fields(request: ChatRequest) -> None:
    limit = request.max_completion_tokens
    check("max_completion_tokens", "at least 1", limit, limit is None or limit >= 1)
    top = request.top_logprobs
    check("top_logprobs", f"from 0 to {_MAX_TOP_LOGPROBS}", top, top is None or 0 <= top <= _MAX_TOP_LOGPROBS)
    if top is not None and not request.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs`: true", param="top_logprobs")
    if request.modalities not in (None, ["text"]):
        raise InvalidRequest(_REFUSED_MODALITIES, param="modalities")
    if request.continue_final_message and request.add_generation_prompt:
        raise InvalidRequest(
            "`continue_final_message` and `add_generation_prompt` exclude each other", param="continue_final_message"
        )
    for key, value in (request.chat_template_kwargs or {}).items():
        scalar = value is None or isinstance(value, str | int | float)
        plain = scalar or (isinstance(value, list) and all(isinstance(item, str | int | float) for item in value))
        check(f"chat_template_kwargs.{key[:80]}", "a string, number, boolean or array of these", value, plain)
