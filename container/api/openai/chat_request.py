"""The body of POST /v1/chat/completions as a `ChatRequest`, valid by construction."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from container.api.bounds import shown, within
from container.api.openai import messages, response_format, structured_outputs, tools
from container.api.openai.chat_extension_fields import ChatExtensionFields, check_chat_extensions
from container.api.openai.extension_fields import PROMPT_LOGPROBS_RULE
from container.api.openai.foreign_fields import read
from container.api.openai.messages import Message, for_template
from container.api.openai.reasoning_effort import Effort, budget_field, with_reasoning_effort
from container.api.openai.response_format import ResponseFormat
from container.api.openai.sampling import STREAM_RULE, check_sampling, check_token_ids
from container.api.openai.structured_outputs import Constraint, constraint_of
from container.api.openai.tools import ToolChoiceField, Tools, ToolUse, tool_use
from container.errors import InvalidRequest
from container.settings import Settings

_MAX_TOP_LOGPROBS = 20
_AUDIO = 'only "text"; audio answers are not supported'
_KWARG = "a string, number, boolean or array of these"
_ALLOWED = {
    **messages.ALLOWED,
    **response_format.ALLOWED,
    **structured_outputs.ALLOWED,
    **tools.ALLOWED,
    "modalities": _AUDIO,
    "modalities[]": _AUDIO,
    "chat_template_kwargs[...]": _KWARG,
    "chat_template_kwargs[...][]": _KWARG,
}
# Variables that the server sets, or that would shadow the template's functions.
_RESERVED = (
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "conversation"),
    *("chat_template", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("tokenizer_kwargs", "range", "dict", "namespace", "lipsum", "cycler", "joiner", "loop", "self", "caller"),
    *("raise_exception", "strftime_now"),
)
_KwargName = Annotated[
    str, shown(**{"not": {"anyOf": [{"enum": list(_RESERVED)}, {"pattern": "^_"}, {"pattern": "_token$"}]}})
]
_Plain = str | int | float | bool | None
TemplateKwargs = dict[_KwargName, _Plain | list[_Plain]]

# Rules between fields, which types cannot express; for the OpenAPI document.
_LOGPROBS_RULE = {
    "anyOf": [
        {"properties": {"top_logprobs": {"enum": [0, None]}}},
        {"required": ["logprobs"], "properties": {"logprobs": {"const": True}}},
    ]
}
_PROMPT_RULE = {
    "anyOf": [
        {"properties": {"add_generation_prompt": {"enum": [False, None]}}},
        {"properties": {"continue_final_message": {"enum": [False, None]}}},
    ]
}
RULE: dict[str, Any] = {"allOf": [STREAM_RULE, _LOGPROBS_RULE, _PROMPT_RULE, PROMPT_LOGPROBS_RULE]}


class ChatRequest(ChatExtensionFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, then TGI's and vLLM's. None counts as absent."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Annotated[int | None, within(1)] = None
    max_completion_tokens: Annotated[int | None, within(1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, within(0, _MAX_TOP_LOGPROBS)] = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    tool_prompt: str | None = None
    modalities: Annotated[list[Literal["text"]], Meta(min_length=1, max_length=1)] | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @property
    def limit(self) -> int | None:
        """The maximum number of tokens to generate, by either of its names."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """The value of `SamplingParams.num_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


class Chat(msgspec.Struct, frozen=True):
    """A checked request: its messages as templates take them, the tools in use, the constraint on its answer.

    `budget_field` is where the body has `thinking_token_budget`. `cuts_limit`: more tokens than fit beside the prompt
    are as many as fit.
    """

    request: ChatRequest
    messages: list[dict[str, Any]]
    tools: ToolUse | None
    constraint: Constraint | None
    budget_field: str = "thinking_token_budget"
    cuts_limit: bool = False

    @property
    def echoed(self) -> str:
        """The text that begins the answer: that of a last message of the assistant, with `echo`."""
        last = self.messages[-1]
        if not self.request.echo or last["role"] != "assistant":
            return ""
        content = last["content"]
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    @property
    def constrained(self) -> bool:
        """Whether a grammar constrains the whole answer, which leaves no room for reasoning."""
        return self.constraint is not None or (self.tools is not None and bool(self.tools.forced))

    @property
    def separates(self) -> bool:
        """Whether thoughts are apart from the text. Who wants none gets none in the text either."""
        return self.request.separate_reasoning is not False or self.request.include_reasoning is False


def parse_chat(
    body: dict[str, Any], settings: Settings, vocab_size: int, kind: type[ChatRequest] = ChatRequest
) -> Chat:
    """Raises InvalidRequest naming field, limit and value."""
    unknown = settings.unknown_fields == "ignore"
    request = read(with_reasoning_effort(body, kind.__struct_fields__), kind, _ALLOWED, takes_unknown=unknown)
    check_sampling(request, settings)
    check_token_ids(request, vocab_size)
    check_chat_extensions(request, settings)
    _check_own_fields(request)
    use = tool_use(request.tools, request.tool_choice, request.parallel_tool_calls)
    constraint = constraint_of(request, request.response_format)
    return Chat(request, for_template(request.messages), use, constraint, budget_field(body))


def _check_own_fields(request: ChatRequest) -> None:
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("`top_logprobs` needs `logprobs`: true", param="top_logprobs")
    if request.continue_final_message and request.add_generation_prompt:
        raise InvalidRequest(
            "`continue_final_message` and `add_generation_prompt` exclude each other", param="continue_final_message"
        )
    follows = isinstance(request.messages[-1], messages.AssistantMessage)
    if request.echo and request.add_generation_prompt is False and not follows:
        raise InvalidRequest("`echo` repeats a last message of the assistant only", param="echo")
    check_template_kwargs(request)


def check_template_kwargs(request: ChatRequest) -> None:
    """Raise InvalidRequest for a variable of the template that the server sets."""
    for key in request.chat_template_kwargs or {}:
        field = f"chat_template_kwargs.{key[:80]}"
        if key in _RESERVED or key.startswith("_") or key.endswith("_token"):
            raise InvalidRequest(f"`{field}` is reserved", param=field)
